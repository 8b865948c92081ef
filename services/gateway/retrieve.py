"""Candidates from the whole catalogue: a few sources with a quota each, merged in turn.

Two-tower (Covington et al., 2016): an item's vector is content·C + row·R, a shopper's is row·U plus the mean of the
history's item vectors; the score is their dot product. Exact up to `EXACT` items, an HNSW index above.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.plans import Plan

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIMILAR, COVISITED, TRENDING, POPULAR, RECENT, NEW = (
    "similar to what you looked at", "seen together", "trending", "popular", "recently viewed", "new",
)  # fmt: skip
"""Sources, by the reason an answer gives."""


@dataclass(frozen=True)
class Quotas:
    """Most candidates of each source; what they leave free is filled with popular, then with new items."""

    similar: int = 64
    covisited: int = 24
    trending: int = 24
    popular: int = 16
    recent: int = 12
    new: int = 12


@dataclass(frozen=True)
class Popularity:
    """Which item features mean trending and popular: (view, feature id); None = the plan has none."""

    trending: tuple[str, int] | None
    popular: tuple[str, int] | None


def popularity(plan: Plan) -> Popularity:
    """By definition, not by name: trending = the decayed item feature that forgets fastest; popular = the number of
    distinct shoppers, else the count, over the longest window.
    """
    features = [f for view in plan.views if view.join_keys == ("item_id",) for f in view.features if not f.is_list]
    decays = sorted((f for f in features if f.function == "decay"), key=lambda f: f.half_life_us)
    counts = sorted(
        (f for f in features if f.function in ("count", "count_distinct")),
        key=lambda f: (f.function == "count_distinct", f.window_us),
    )
    return Popularity(
        (decays[0].view, decays[0].id) if decays else None, (counts[-1].view, counts[-1].id) if counts else None
    )


def top(values: Floats, count: int) -> Ints:
    """Places of the largest values, largest first; NaN and -inf are never among them.

    >>> top(np.array([1, 3, np.nan, 2], np.float32), 2)
    array([1, 3])
    """
    clean = np.where(np.isnan(values), -np.inf, values)
    count = min(count, len(clean))
    if not count:
        return np.zeros(0, np.int64)
    places = np.argpartition(-clean, count - 1)[:count]
    places = places[np.argsort(-clean[places], kind="stable")]
    return places[np.isfinite(clean[places])].astype(np.int64)


def item_vectors(content: Floats, rows: Floats, matrices: Mapping[str, Floats]) -> Floats:
    """Vectors of items [n, R] from content [n, C] and rows [n, D] (zero where there is none)."""
    vectors: Floats = content @ matrices["content"] + rows @ matrices["row"]
    return vectors


def user_vector(row: Floats | None, history: Floats, matrices: Mapping[str, Floats]) -> Floats:
    """Vector of a shopper [R]; `history`: vectors of the items in the history [k, R]."""
    vector = np.zeros(matrices["content"].shape[1], np.float32)
    if row is not None and len(row) == len(matrices["user_row"]):
        vector += row @ matrices["user_row"]
    if len(history):
        vector += history.mean(axis=0)
    return vector


def merge(
    sources: Sequence[tuple[str, Ints]], most: int, fill: Sequence[tuple[str, Ints]] = ()
) -> tuple[Ints, list[str]]:
    """Slots of all sources in turn, then of the fillers one after the other; each slot once, at most `most`.

    Returns the slots and for each the reason that brought it first.

    >>> merge([("a", np.array([1, 2])), ("b", np.array([2, 3]))], 4, [("c", np.array([3, 4, 5]))])
    (array([1, 2, 3, 4]), ['a', 'b', 'b', 'c'])
    """
    reasons: dict[int, str] = {}
    lists = [(reason, slots.tolist()) for reason, slots in sources]
    for place in range(max((len(slots) for _, slots in lists), default=0)):
        for reason, slots in lists:
            if place < len(slots) and len(reasons) < most:
                reasons.setdefault(slots[place], reason)
    for reason, more in fill:
        for slot in more.tolist() if len(reasons) < most else ():
            if len(reasons) < most:
                reasons.setdefault(slot, reason)
    return np.array(list(reasons), np.int64), list(reasons.values())


class Covisits:
    """Which items are looked at one after the other: counts of neighbours in visits, kept for the newest items.

    Built from the events that pass through this process: a hint for candidates, not a feature.

    >>> visits = Covisits(); visits.saw("s", "x"); visits.saw("s", "y"); visits.next_to(["x"], 5)
    ['y']
    """

    def __init__(self, items: int = 50_000, neighbours: int = 32, sessions: int = 50_000) -> None:
        self._items, self._neighbours, self._sessions = items, neighbours, sessions
        self._last: dict[str, str] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def saw(self, session: str, item: str) -> None:
        """An item was touched in a visit."""
        before = self._last.pop(session, "")
        self._last[session] = item
        if len(self._last) > self._sessions:
            del self._last[next(iter(self._last))]
        if before and before != item:
            self._count(before, item)
            self._count(item, before)

    def next_to(self, items: Sequence[str], count: int) -> list[str]:
        """Neighbours of the items, the most frequent first, without the items themselves."""
        total: dict[str, int] = {}
        for item in items:
            for neighbour, times in self._counts.get(item, {}).items():
                total[neighbour] = total.get(neighbour, 0) + times
        found = sorted((n for n in total if n not in items), key=lambda n: -total[n])
        return found[:count]

    def _count(self, item: str, neighbour: str) -> None:
        counts = self._counts.pop(item, {})
        self._counts[item] = counts
        counts[neighbour] = counts.get(neighbour, 0) + 1
        if len(counts) > self._neighbours:
            del counts[min(counts, key=lambda n: counts[n])]
        if len(self._counts) > self._items:
            del self._counts[next(iter(self._counts))]
