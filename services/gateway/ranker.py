"""Rank, Recommend and Similar: the protocol-free core of the service."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.errors import NotFound, Overloaded
from services.common.tokens import Tokens
from services.gateway import catalogue, ladder, rank, rerank, retrieve, similar
from services.gateway import filter as filters
from services.gateway.calls import Answer, Caller, RankCall, RecommendCall, SimilarCall
from services.gateway.candidates import RowSlot, Wanted, gather
from services.gateway.catalogue import Picture, Vectors
from services.gateway.cross import DAY_US
from services.gateway.feast import Ask
from services.gateway.impressions import AsServed
from services.gateway.inputs import NO_HISTORY
from services.gateway.ladder import Budget
from services.gateway.pages import Pages, Rest
from services.gateway.pipeline import Evaluation, Pipeline, with_pairs
from services.gateway.releases import World
from services.gateway.rerank import Boosts
from services.gateway.retrieve import Covisits, Quotas
from services.gateway.served import as_served
from services.gateway.shopper import Recent, Shopper, no_pairs
from services.gateway.similar import Alike, Way
from services.text.normal import query_key

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PURCHASE = 4
"""EventKind of a purchase: what was bought is not recommended again."""


@dataclass(frozen=True)
class Policy:
    """How answers are put together."""

    candidates: int = 128
    """Most candidates scored for Recommend: one of the paddings."""
    explore: float = 0.03
    """Share of positions of Recommend given to exploration."""
    explore_uncertain: bool = False
    """Draw what is explored by how much it teaches, else all alike."""
    explore_rank: float = 0.0
    """Share of Rank's answers in a uniformly drawn order: off unless asked for."""
    unshown: int = 8
    """Candidates not shown that are logged per impression of Recommend."""
    category_cap: int = 3
    """Most results of one category among `category_window` in a row; 0 = no limit."""
    category_window: int = 6
    similar_text: float = 0.3
    """Part of Similar's nearness that the items' texts decide, where there is an encoder."""
    similar_vectors: float = 0.3
    """Part of it that vectors of the shop decide, in equal parts."""
    quotas: Quotas = Quotas()
    boosts: Boosts = Boosts()


class Ranker:
    """Answers calls; `emit` takes what was served and must not wait."""

    def __init__(
        self,
        pipeline: Pipeline,
        tokens: Tokens,
        emit: Callable[[AsServed], None],
        policy: Policy = Policy(),
        covisits: Covisits | None = None,
        texts: Alike | None = None,
        given: Sequence[Alike] = (),
    ) -> None:
        """`texts`, `given`: what knows the items' texts, and the vectors that the shop gives of them."""
        self._pipeline, self._tokens, self._emit, self._policy = pipeline, tokens, emit, policy
        self._pages = Pages(tokens)
        self._covisits = covisits or Covisits()
        ways = [Way(texts, policy.similar_text)] if texts is not None else []
        self._ways = [*ways, *(Way(alike, policy.similar_vectors / len(given)) for alike in given)]

    async def rank(self, call: RankCall, budget: Budget) -> Answer:
        """The caller's candidates in order."""
        found = await self._pipeline.evaluate(call.caller, call.wanted, call.now_us, budget)
        explore = 0.0 if call.preview else self._policy.explore_rank
        shown = rerank.shuffled(found.scored.order, explore, _seed(found.impression_id))
        missing = [call.wanted.ids[i] for i in np.flatnonzero(found.candidates.records["live"] == 0).tolist()]
        served = as_served(found, call.caller, call.placement, call.now_us, shown, closed_loop=False)
        return self.answer(served, found, missing=missing, preview=call.preview)

    async def recommend(self, call: RecommendCall, budget: Budget) -> Answer:
        """Items from the catalogue, or the next page of an earlier answer."""
        if call.page_token:
            return await self._next_page(call, budget)
        found, reasons = await self._recommended(call, budget)
        score, order = self._arranged(found, call.now_us)
        explore = 0.0 if call.preview else self._policy.explore
        shown = rerank.explore(order, call.size, explore, _seed(found.impression_id), self._taught_by(found))
        sample = rerank.unshown(order, shown.order, self._policy.unshown, _seed(found.impression_id))
        served = as_served(
            found, call.caller, call.placement, call.now_us, shown, closed_loop=True, unshown=sample, score=score
        )
        ids = found.candidates.wanted.ids
        left = [ids[place] for place in order[~np.isin(order, shown.order)].tolist()]
        rest = Rest(left, 1, len(shown.order), call.size, call.placement, call.now_us // 1_000_000)
        next_page = self._pages.write(rest, call.caller.user)
        why = [[reasons[place]] for place in shown.order.tolist()]
        return self.answer(served, found, reasons=why, next_page=next_page, preview=call.preview)

    async def similar(self, call: SimilarCall, budget: Budget) -> Answer:
        """Items like one item: by content, with a release by its rows, with an encoder by what their texts mean, and by
        what the shop's own vectors tell of them.

        Raises NotFound for an item that is not in the catalogue, Overloaded while the catalogue is being read.
        """
        picture = self._picture()
        slot = int(self._pipeline.table.slots([call.item])[0])
        if slot < 0 or slot >= picture.count or not picture.records["live"][slot]:
            raise NotFound(f"there is no item {call.item!r}")
        known = self._vectors(picture, self._pipeline.state.world)
        vectors = known.values if known is not None else picture.records["content"]
        keep = filters.without(picture.available, np.array([slot]))
        caller = call.caller
        world = self._pipeline.state.worlds.of(caller.user if caller else "", call.now_us)
        shopper, rung = await self._shopper(world, caller, call.now_us, budget) if caller else (None, ladder.NONE)
        if shopper is not None:
            keep = filters.without(keep, self._pipeline.table.slots(_recent(shopper, world.schema.history).items))
        nearness = similar.blended(similar.cosine(vectors, slot), slot, keep, self._ways)
        slots = retrieve.top(np.where(keep, nearness, np.nan), call.size)
        ids = self._pipeline.table.ids(slots)
        reasons = [[f"similar to {call.item}"]] * len(ids)
        if caller is None or shopper is None:
            return Answer(ids, nearness[slots].astype(np.float32), reasons=reasons, frozen=world.frozen, rung=rung)
        found = await self._pipeline.evaluate(caller, Wanted.of(ids), call.now_us, budget)
        shown = rerank.Shown(np.arange(len(ids)), None, None)
        served = as_served(found, caller, "similar", call.now_us, shown, closed_loop=True, score=nearness[slots])
        return self.answer(served, found, reasons=reasons)

    def page(self, rest: Rest, caller: Caller) -> str:
        """Token of the rest of an answer; empty when nothing is left."""
        return self._pages.write(rest, caller.user)

    def rest(self, token: str, caller: Caller, now_us: int) -> Rest:
        """The rest of an answer. Raises InvalidInput for a token that does not hold."""
        return self._pages.read(token, caller.user, now_us)

    def _taught_by(self, found: Evaluation) -> Floats | None:
        """Weights of exploration; None where all are drawn alike, as where no release has scored them."""
        scores = found.scored.objectives
        return rerank.uncertain(scores[:, 0]) if self._policy.explore_uncertain and scores is not None else None

    async def _recommended(self, call: RecommendCall, budget: Budget) -> tuple[Evaluation, list[str]]:
        pipeline, picture, caller = self._pipeline, self._picture(), call.caller
        world = pipeline.state.worlds.of(caller.user, call.now_us)
        shopper, rung = await self._shopper(world, caller, call.now_us, budget)
        with pipeline.meters.stage("retrieve"):
            slots, reasons = self._candidates(world, call, picture, shopper)
            wanted = Wanted.of(pipeline.table.ids(slots))
        serving = next(iter(world.servings(caller.user)), None)
        rows = serving.rows if serving else RowSlot()
        with pipeline.meters.stage("items"):
            candidates = gather(pipeline.table, world.schema, wanted, rows)
        ask = Ask(caller.user, caller.session, candidates.categories, (), rows, call.now_us)
        if rung < ladder.NO_USER_FEATURES:
            shopper, second = await pipeline.read_pairs(world.schema, ask, shopper, budget)
            rung = ladder.lower(rung, second)
        else:
            shopper = with_pairs(
                shopper, no_pairs(len(ask.categories), world.schema.pairs, len(world.schema.pair_views))
            )
        found = await pipeline.score(world, caller, candidates, shopper, rung, call.now_us, budget)
        return found, reasons

    async def _shopper(self, world: World, caller: Caller, now_us: int, budget: Budget) -> tuple[Shopper, ladder.Rung]:
        serving = next(iter(world.servings(caller.user)), None)
        rows = serving.rows if serving else RowSlot()
        return await self._pipeline.read(world.schema, Ask(caller.user, caller.session, (), (), rows, now_us), budget)

    def _candidates(
        self, world: World, call: RecommendCall, picture: Picture, shopper: Shopper
    ) -> tuple[Ints, list[str]]:
        table = self._pipeline.table
        recent = _recent(shopper, world.schema.history)
        touched = table.slots(recent.items)
        bought = touched[recent.kinds == PURCHASE]
        keep = filters.without(picture.available, np.concatenate([bought, table.slots(call.exclude)]))
        if call.categories:
            codes = [table.category_codes.get(name, -1) for name in call.categories]
            keep &= filters.in_categories(picture.records, codes)
        covisited = table.slots(self._covisits.next_to(list(recent.items[:10]), self._policy.quotas.covisited))
        near = self._near(world, picture, shopper, touched)
        found = catalogue.sources(picture, keep, near, touched, covisited, self._policy.quotas)
        most = self._policy.candidates
        fill = [
            (reason, catalogue.first(slots, keep, most))
            for reason, slots in ((retrieve.POPULAR, picture.popular), (retrieve.NEW, picture.newest))
        ]
        return retrieve.merge(found, most, fill)

    def _vectors(self, picture: Picture, world: World) -> Vectors | None:
        return picture.vectors.get(world.champion.release.name) if world.champion else None

    def _near(self, world: World, picture: Picture, shopper: Shopper, touched: Ints) -> tuple[Vectors, Floats] | None:
        vectors = self._vectors(picture, world)
        if vectors is None or world.champion is None:
            return None
        known = touched[(touched >= 0) & (touched < picture.count)]
        return vectors, retrieve.user_vector(shopper.row, vectors.values[known], world.champion.release.matrices)

    def _arranged(self, found: Evaluation, now_us: int) -> tuple[Floats, Ints]:
        """Scores with the shop's boosts, and the order of what may still be shown, varied.

        Stock may have changed since the catalogue's last picture.
        """
        candidates, policy = found.candidates, self._policy
        names = [*candidates.categories, ""]
        published = candidates.records["published_us"]
        age_days = np.where(published > 0, (now_us - published) / DAY_US, np.nan).astype(np.float32)
        score = found.scored.score * policy.boosts.factors(age_days, [names[k] for k in candidates.category.tolist()])
        order = rerank.by_score(score, candidates.wanted.prior_rank)
        order = order[filters.available(candidates.records)[order]]
        return score, rerank.vary(order, candidates.category, policy.category_cap, policy.category_window)

    async def _next_page(self, call: RecommendCall, budget: Budget) -> Answer:
        rest = self._pages.read(call.page_token, call.caller.user, call.now_us)
        table = self._pipeline.table
        keep = filters.available(table.catalogue(table.slots(rest.ids)))
        ids = [item for item, kept in zip(rest.ids, keep.tolist(), strict=True) if kept and item not in call.exclude]
        page, left = ids[: rest.size], ids[rest.size :]
        found = await self._pipeline.evaluate(call.caller, Wanted.of(page), call.now_us, budget)
        shown = rerank.Shown(np.arange(len(page)), None, None)
        served = as_served(
            found, call.caller, rest.placement, call.now_us, shown, True, page=rest.page, first=rest.position
        )
        following = Rest(left, rest.page + 1, rest.position + len(page), rest.size, rest.placement, rest.issued_s)
        next_page = self._pages.write(following, call.caller.user)
        return self.answer(served, found, next_page=next_page, preview=call.preview)

    def _picture(self) -> Picture:
        picture = self._pipeline.state.picture
        if picture is None:
            raise Overloaded("the catalogue is being read, try again")
        return picture

    def answer(
        self,
        served: AsServed,
        found: Evaluation,
        reasons: Sequence[Sequence[str]] = (),
        missing: Sequence[str] = (),
        next_page: str = "",
        preview: bool = False,
    ) -> Answer:
        """The answer to a call; what was served goes on its way, unless it was a preview."""
        ids, order = found.candidates.wanted.ids, served.order
        release = found.serving.release if found.serving else None
        ages = rank.ages(found.candidates, found.shopper, release.learned_up_to_us if release else 0, served.time_us)
        self._pipeline.meters.ages(ages)
        self._pipeline.meters.count(found.candidates, found.rung)
        traced = len(order) > 0 and not preview
        if traced:
            self._emit(served)
        objectives = found.scored.objectives
        return Answer(
            ids=[ids[place] for place in order.tolist()],
            scores=served.score[order],
            heads=found.scored.heads,
            objectives=objectives[order] if objectives is not None else np.zeros((len(order), 0), np.float32),
            reasons=reasons,
            token=self._token(served) if traced else "",
            next_page=next_page,
            release=served.release,
            arm=served.arm,
            rung=found.rung,
            ages=ages,
            frozen=found.world.frozen,
            missing=missing,
            request_id=served.impression_id,
        )

    def _token(self, served: AsServed) -> str:
        query = query_key(served.query) or ""
        return self._tokens.issue(served.impression_id, served.user, served.time_us, query)


def _recent(shopper: Shopper, history: str) -> Recent:
    return shopper.lists.get(history, NO_HISTORY)


def _seed(impression_id: str) -> int:
    """Repeatable per answer."""
    return zlib.crc32(impression_id.encode())
