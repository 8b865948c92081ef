"""What freshness and single features are worth, asked of the running system while a log is replayed in lockstep.

Lag: the same request is asked so many seconds of log time early, when everything - features, rows, release - stands as
it did then; as a preview, which leaves no trace. Its reciprocal rank beside that of the request in time is what the
lag costs. Occlusion: Explain says what each input contributed to each candidate's score; the candidates are ordered
again without one input at a time.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np

from services.demo.evaluate import bootstrap, reciprocal
from services.demo.loaders.steps import Ask, Stock, Tell

LAGS_S = (10, 60, 600, 3600)

EVERY = 10
"""One request of so many is studied."""


class Asker(Protocol):
    """What the studies ask of the gateway."""

    async def preview(self, ask: Ask) -> list[str] | None:
        """Items in order, leaving no trace; None when the call failed."""
        ...

    async def contributions(self, token: str, item: str, time_us: int) -> tuple[float, dict[str, float]] | None:
        """The item's score and what each input contributed to it; None when the call failed."""
        ...


@dataclass(frozen=True)
class Early:
    """A request to be asked ahead of its time."""

    time_us: int
    lag_s: int
    ask: Ask


def early(steps: Iterable[Ask | Tell | Stock], every: int = EVERY, lags_s: Sequence[int] = LAGS_S) -> list[Early]:
    """The previews of one request in `every` of the second half, in the order they are to be asked."""
    asks = [step for step in steps if isinstance(step, Ask) and step.candidates and step.wanted]
    studied = asks[len(asks) // 2 :: every]
    out = [Early(ask.time_us - lag * 1_000_000, lag, ask) for ask in studied for lag in lags_s]
    return sorted(out, key=lambda one: one.time_us)


@dataclass(frozen=True)
class Cost:
    """What something costs in mean reciprocal rank: paired over requests, with 95 % bounds."""

    what: str
    requests: int
    mrr: float
    difference: float
    """MRR with it minus MRR of the answers as given."""
    lower: float
    upper: float
    auc: float
    """Mean AUC inside a list: the share of the other candidates that the wanted one stands before."""
    auc_difference: float


Placed = tuple[float, float]
"""Reciprocal rank, and AUC inside the list."""


@dataclass
class Study:
    """Collects reciprocal ranks of studied requests; `lags` and `features` give the figures."""

    asker: Asker
    _early: dict[tuple[str, int, str], dict[int, Placed]] = field(default_factory=lambda: defaultdict(dict))
    _pairs: dict[int, list[tuple[Placed, Placed]]] = field(default_factory=lambda: defaultdict(list))
    _without: dict[str, list[tuple[Placed, Placed]]] = field(default_factory=lambda: defaultdict(list))

    async def look_early(self, one: Early) -> None:
        """Ask ahead of time and keep the reciprocal rank of what will be wanted."""
        items = await self.asker.preview(one.ask)
        ranks = self._early[_key(one.ask)]
        if items is not None:
            ranks[one.lag_s] = placed(one.ask.wanted, items)

    async def answered(self, ask: Ask, items: Sequence[str], token: str, release: str) -> None:
        """The answer in time of a request; studied only when it was asked early and a release ranked it."""
        early_ranks = self._early.pop(_key(ask), None)
        if early_ranks is None or not release:
            return
        now = placed(ask.wanted, items)
        for lag, before in early_ranks.items():
            self._pairs[lag].append((before, now))
        found = await asyncio.gather(*(self.asker.contributions(token, item, ask.time_us) for item in items))
        known = [one for one in found if one is not None]
        if len(known) == len(items):
            for feature, order in orders_without(items, known).items():
                self._without[feature].append((placed(ask.wanted, order), now))

    def lags(self) -> list[Cost]:
        """One line per lag, shortest first."""
        return [_cost(f"{lag} s", pairs) for lag, pairs in sorted(self._pairs.items())]

    def features(self) -> list[Cost]:
        """One line per input left out, the most missed first."""
        return sorted((_cost(name, pairs) for name, pairs in self._without.items()), key=lambda cost: cost.difference)

    def figures(self) -> dict[str, list[dict[str, object]]]:
        """For machines."""
        return {"lags": [asdict(c) for c in self.lags()], "features": [asdict(c) for c in self.features()]}


def orders_without(items: Sequence[str], found: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, list[str]]:
    """For each input the order of the items without it; ties keep the order of the answer.

    >>> orders_without(["a", "b"], [(0.9, {"x": 0.5}), (0.8, {"x": 0.0})])
    {'x': ['b', 'a']}
    """
    out = {}
    for name in sorted({name for _, parts in found for name in parts}):
        scores = [score - parts.get(name, 0.0) for score, parts in found]
        out[name] = [item for _, item in sorted(zip(scores, items, strict=True), key=lambda pair: -pair[0])]
    return out


def placed(wanted: str, items: Sequence[str]) -> Placed:
    """Where the wanted item stands among others.

    >>> placed("b", ["a", "b", "c"]), placed("d", ["a", "b"])
    ((0.5, 0.5), (0.0, 0.0))
    """
    if wanted not in items or len(items) == 1:
        return reciprocal(wanted, items), float(wanted in items)
    return reciprocal(wanted, items), 1 - items.index(wanted) / (len(items) - 1)


def _cost(what: str, pairs: Sequence[tuple[Placed, Placed]]) -> Cost:
    changed, now = np.array(pairs).transpose(1, 0, 2)
    (rank, auc), (rank_off, auc_off) = changed.mean(axis=0).tolist(), (changed - now).mean(axis=0).tolist()
    lower, upper = np.percentile(bootstrap((changed - now)[:, 0]), [2.5, 97.5])
    return Cost(what, len(pairs), rank, rank_off, float(lower), float(upper), auc, auc_off)


def _key(ask: Ask) -> tuple[str, int, str]:
    return ask.shopper.session_id, ask.time_us, ask.wanted
