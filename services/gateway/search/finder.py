"""What a query finds: by its words, by its meaning, and both fused; only what passes the filter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.gateway.search.index import IndexReader
from services.gateway.search.texts import Text
from services.gateway.search.understand import Query
from services.gateway.search.wish import Filter
from services.gateway.table import ItemTable

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

K = 60.0
"""How little the first places stand out when orders are fused: the value of Cormack et al. (2009)."""

ENOUGH = 10
"""Items that have most of the words; when there are fewer, those that have some are found too."""

NARROW = 2_000
"""Items that pass a filter up to which each is compared with the query; above, the nearest are asked for the filter."""

MOST_DEEPER = 8
"""How many times more of the nearest are looked at for a filter that few items pass."""


@dataclass(frozen=True)
class Meant:
    """A query's vector, with the vectors of items that it can be compared with."""

    text: Text
    vector: Floats

    def cosines(self, table: ItemTable, slots: Ints) -> Floats:
        """Of items with the query; NaN for those without a vector."""
        return self.text.vectors.cosines(table, self.vector, slots)


@dataclass(frozen=True)
class Hits:
    """What was found, best first."""

    slots: Ints
    lexical: dict[int, float]
    """BM25 by slot."""
    sure: int
    """So many of the first stand before all others."""
    count: int
    facets: dict[str, list[tuple[str, int]]]
    prior_rank: Ints
    """[n] place by words and meaning, 1 = best; what matches equally well shares one."""


@dataclass(frozen=True)
class _ByWords:
    slots: Ints
    scores: Floats
    sure: int
    count: int
    least: int

    @property
    def lexical(self) -> dict[int, float]:
        return dict(zip(self.slots.tolist(), self.scores.tolist(), strict=True))


def find(
    reader: IndexReader,
    table: ItemTable,
    query: Query,
    keep: Filter,
    most: int,
    facets: bool,
    meant: Meant | None,
    floor: float,
    narrow: int = NARROW,
) -> Hits:
    """At most `most` items. `meant`: the query's vector, None = words alone; `floor`: cosine that is near enough;
    `narrow`: items that pass the filter up to which each is compared.
    """
    by_words = _by_words(reader, query, keep, most)
    near, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if meant is not None:
        near, cosines = _near(reader, table, keep, meant, most, floor, narrow)
    # What has all the words stands before what has some; so does what means as much as that. A mistyped query is not
    # asked how much something means: its vector is of the words as they were typed.
    surely = by_words.slots[: by_words.sure]
    new = near[~np.isin(near, by_words.slots)]
    counted = {}
    if facets:
        counted = reader.facets(query.wish, keep, by_words.least, table.ids(new) if len(new) else ())
    count = by_words.count + len(new)
    ranks = tied(by_words.scores, by_words.sure)
    if not len(near):
        slots = by_words.slots[:most]
        return Hits(slots, by_words.lexical, min(by_words.sure, most), count, counted, ranks[:most])
    assert meant is not None
    least = _typical(meant.cosines(table, surely)) if not query.corrected else 2.0
    alike = near[cosines >= least] if len(surely) else near
    slots, prior_rank, sure = fused(by_words.slots, ranks, near, most, np.union1d(surely, alike))
    return Hits(slots, by_words.lexical, sure, count, counted, prior_rank)


def _by_words(reader: IndexReader, query: Query, keep: Filter, most: int) -> _ByWords:
    """Items that have most of the words, and where they are few, after them those that have some."""
    wish = query.wish
    least = wish.most_words
    found = reader.search(wish, keep, most, least)
    slots, scores, count = found.slots, found.scores, found.count
    if count < ENOUGH and least > 1:
        least = 1
        more = reader.search(wish, keep, most)
        new = ~np.isin(more.slots, slots)
        slots, scores = np.concatenate([slots, more.slots[new]]), np.concatenate([scores, more.scores[new]])
        count = more.count
    return _ByWords(slots, scores, len(found.slots), count, least)


def _near(
    reader: IndexReader, table: ItemTable, keep: Filter, meant: Meant, most: int, floor: float, narrow: int
) -> tuple[Ints, Floats]:
    """Slots of the nearest items that pass the filter, best first, with their cosines."""
    vectors = meant.text.vectors
    if keep == Filter():
        slots, cosines = vectors.nearest(table, meant.vector, most)
        return slots[cosines >= floor], cosines[cosines >= floor]
    passing = reader.passing_count(keep)
    if passing <= narrow:
        slots = reader.passing(keep, narrow)
        cosines = meant.cosines(table, slots)
        order = np.argsort(-cosines, kind="stable")[:most]  # NaN comes last
        order = order[cosines[order] >= floor]
        return slots[order], cosines[order]
    deeper = min(MOST_DEEPER, -(-reader.count // passing))
    slots, cosines = vectors.nearest(table, meant.vector, most * deeper)
    slots, cosines = slots[cosines >= floor], cosines[cosines >= floor]
    kept = reader.passing(keep, len(slots), table.ids(slots)) if len(slots) else slots
    passes = np.isin(slots, kept)
    return slots[passes][:most], cosines[passes][:most]


def _typical(cosines: Floats) -> float:
    """Median of those that are known; above all others where none is."""
    known = cosines[~np.isnan(cosines)]
    return float(np.median(known)) if len(known) else 2.0


def fused(by_words: Ints, ranks: Ints, near: Ints, most: int, first: Ints) -> tuple[Ints, Ints, int]:
    """Reciprocal rank fusion of two orders (Cormack et al., 2009): slots, best first, their places from 1, and how
    many of them are among `first`, which stand before all others.

    `ranks` [n]: place of each of `by_words`, equal for what matches equally well. What is in one order only has
    nothing from the other.

    >>> fused(np.array([7, 8]), np.array([1, 2]), np.array([8, 9]), 2, np.array([7, 8, 9]))
    (array([8, 7]), array([1, 2]), 2)
    """
    slots = np.concatenate([by_words, near[~np.isin(near, by_words)]])
    score = np.zeros(len(slots))
    score[: len(by_words)] = 1 / (K + ranks)
    place = {slot: rank for rank, slot in enumerate(near.tolist(), 1)}
    score += [1 / (K + place[slot]) if slot in place else 0.0 for slot in slots.tolist()]
    behind = ~np.isin(slots, first)
    order = np.lexsort((-score, behind))[:most]
    sure = int(np.count_nonzero(~behind[order]))
    return slots[order], tied(score[order], sure), sure


def tied(scores: NDArray[np.floating], sure: int) -> Ints:
    """Places by score, 1 = best; equal ones share the first of theirs, and none of the first `sure` is behind others.

    >>> tied(np.array([3, 1, 1, 9], np.float32), 3)
    array([1, 2, 2, 4])
    """
    parts = (-np.nan_to_num(scores[:sure]), -np.nan_to_num(scores[sure:]))
    ranks = [1 + np.searchsorted(np.sort(part), part) for part in parts]
    return np.concatenate([ranks[0], sure + ranks[1]]).astype(np.int64)


def blended(model: Ints, prior_rank: Ints, relevance: float) -> tuple[Ints, NDArray[np.float64]]:
    """Places by the model's order and by how well the query matches, each with its weight; best first, with the scores.

    Reciprocal rank fusion; what matches equally well is left to the model.

    >>> blended(np.array([1, 2, 0]), np.array([1, 2, 2]), 0.9)[0]
    array([0, 1, 2])
    """
    place = np.empty(len(model))
    place[model] = np.arange(1, 1 + len(model))
    score = (1 - relevance) / (K + place) + relevance / (K + prior_rank)
    order = np.lexsort((place, -score))
    return order, score[order]
