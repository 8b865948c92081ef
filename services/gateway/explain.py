"""Why an item got its score: the same model, asked again with one input taken away at a time (occlusion).

Taking an input away means giving it as missing - NaN for a number, mask 0 for a row, content or history - which the
model was trained to answer. A contribution is the score minus the score without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotFound
from services.common.spec import Arrays, ModelSpec, context_ids
from services.common.tokens import Tokens, impression_of
from services.gateway import inputs, rerank
from services.gateway.calls import ExplainCall, Explanation, Part
from services.gateway.candidates import Candidates, ItemRows, Wanted, surest
from services.gateway.impressions import AsServed, RecentAnswers
from services.gateway.ladder import SCORE_SHARE, Budget
from services.gateway.pipeline import Scorer, State
from services.gateway.releases import Serving

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Without:
    """One input that is taken away."""

    name: str
    value: float
    """As served; 1 or 0 for a block that was there or not."""
    age_ms: float


class Explainer:
    """Explains answers that this process still holds."""

    def __init__(
        self,
        recent: RecentAnswers,
        tokens: Tokens,
        scorer: Scorer,
        state: State,
        matched: Callable[[str, str], Sequence[str]] = lambda query, item: (),
    ) -> None:
        """`matched`: words of a query that an item has."""
        self._recent, self._tokens, self._scorer, self._state = recent, tokens, scorer, state
        self._matched = matched

    async def explain(self, call: ExplainCall, budget: Budget, now_s: float) -> Explanation:
        """Contributions to the score of one item.

        Raises InvalidInput for a token that does not hold, NotFound when the answer, the item or the release is not
        there (any more), TemporaryError when the model does not answer.
        """
        served = self._recent.get(impression_of(call.token), call.now_us)
        if served is None:
            raise NotFound("this answer is not held here (any more); only recent ones can be explained")
        self._tokens.check(call.token, served.user, call.now_us)
        place = _place(served, call.item)
        serving = self._serving(served.release)
        arrays = of_one(serving, served, place)
        taken = without(serving.release.spec, served, place, arrays)
        batch = occluded(arrays, serving.release.spec, len(taken))
        scores = await self._scorer.score(serving.release.name, batch, budget.share(now_s, SCORE_SHARE))
        totals = rerank.objective(scores[:, 0, :], serving.release.weights)
        parts = [
            Part(part.name, part.value, float(totals[0] - total), part.age_ms)
            for part, total in zip(taken, totals[1:], strict=True)
        ]
        parts.sort(key=lambda part: -abs(part.contribution))
        item = served.candidates.wanted.ids[place]
        reranked = float(served.reranked[place]) if served.reranked is not None else float("nan")
        return Explanation(
            item,
            float(totals[0]),
            float(served.score[place]),
            parts[: call.top],
            served.release,
            served.query,
            self._matched(served.query, item) if served.query else (),
            served.reranker if reranked == reranked else "",
            reranked,
            surest(served.candidates.wanted.match),
        )

    def _serving(self, release: str) -> Serving:
        worlds = self._state.worlds.arms.values()
        for serving in (serving for world in worlds for serving in (world.champion, world.previous)):
            if serving is not None and serving.release.name == release:
                return serving
        raise NotFound(f"release {release!r} is not served any more" if release else "no release ranked this answer")


def _place(served: AsServed, item: str) -> int:
    if not item:
        return int(served.order[0])
    if item not in served.candidates.index:
        raise NotFound(f"item {item!r} was not among the candidates")
    return served.candidates.index[item]


def of_one(serving: Serving, served: AsServed, place: int) -> Arrays:
    """As-served inputs of one candidate, B = 1."""
    context = context_ids(served.context.region, served.context.device, served.context.platform)
    plan = inputs.InputPlan.of(serving.release.spec, served.schema)
    return inputs.assemble(plan, one(served.candidates, place), served.shopper, served.served, context, served.time_us)


def one(candidates: Candidates, place: int) -> Candidates:
    """A single candidate with its columns."""
    at = slice(place, place + 1)
    wanted, rows = candidates.wanted, candidates.rows
    item = wanted.ids[place]
    return Candidates(
        wanted=Wanted([item], wanted.prior_rank[at], wanted.price[at], wanted.bid[at], [wanted.campaign[place]]),
        slots=candidates.slots[at],
        index={item: 0},
        records=candidates.records[at],
        features=candidates.features[at],
        pos=candidates.pos[at],
        time_us=candidates.time_us[at],
        rows=ItemRows(rows.values[at], rows.mask[at], rows.seq[at], rows.epoch[at], rows.time_us[at]),
        price=candidates.price[at],
        categories=candidates.categories,
        category=candidates.category[at],
    )


_BLOCKS = ("user_row", "context", "history", "content", "row")


def without(spec: ModelSpec, served: AsServed, place: int, arrays: Arrays) -> list[Without]:
    """What `occluded` takes away, in its order: numbers of the user, of the item, then whole blocks."""
    now_us = served.time_us
    by_view = dict(zip(served.shopper.views, served.shopper.times_us, strict=False))
    item_views = {view.view for view in served.schema.item_views}
    item_us = int(served.candidates.time_us[place])
    out = [
        Without(f"{ref.view}:{ref.name}", float(value), _age(by_view.get(ref.view, 0), now_us))
        for ref, value in zip(spec.user_features, arrays["user"][0], strict=True)
    ]
    out += [
        Without(f"{ref.view}:{ref.name}", float(value), _age(item_us if ref.view in item_views else 0, now_us))
        for ref, value in zip(spec.item_features, arrays["item"][0, 0], strict=True)
    ]
    row_us = int(served.candidates.rows.time_us[place])
    there = {
        "user_row": (float(arrays["user_row_mask"][0, 0]), served.shopper.row_time_us),
        "context": (float(arrays["context"][0].any()), 0),
        "history": (float(arrays["history_mask"][0].sum()), int(served.served.recent.times.max(initial=0))),
        "content": (float(arrays["content"][0, 0].any()), int(served.candidates.records["updated_us"][place])),
        "row": (float(arrays["row_mask"][0, 0, 0]), row_us),
    }
    return out + [Without(name, there[name][0], _age(there[name][1], now_us)) for name in _BLOCKS]


def occluded(arrays: Arrays, spec: ModelSpec, count: int) -> Arrays:
    """The inputs `1 + count` times: whole first, then each time without one input."""
    out = {name: np.repeat(array, 1 + count, axis=0) for name, array in arrays.items()}
    users, items = len(spec.user_features), len(spec.item_features)
    at = np.arange(1, 1 + users)
    out["user"][at, at - 1] = np.nan
    at = np.arange(1 + users, 1 + users + items)
    out["item"][at, 0, at - 1 - users] = np.nan
    first = 1 + users + items
    for number, block in enumerate(_BLOCKS):
        for name in out:
            if name == block or name.startswith(f"{block}_"):
                out[name][first + number] = 0
    return out


def _age(time_us: int, now_us: int) -> float:
    return max(0, now_us - time_us) / 1e3 if time_us else -1.0
