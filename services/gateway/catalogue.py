"""The catalogue as candidates come from it: vectors, popularity and age of all items, renewed as they change.

A refresh runs in a thread beside the requests; they use the last whole picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from services.gateway import filter as filters
from services.gateway import retrieve
from services.gateway.candidates import RowSlot, item_rows
from services.gateway.retrieve import Popularity, Quotas, top
from services.gateway.table import ItemTable

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Stamps = NDArray[np.uint32]

EXACT = 50_000
"""Items up to which every vector is compared (about 1 ms); above it an approximate index is asked."""

DEPTH = 4
"""An approximate index, which does not know the filters, is asked for so many times the quota."""


MOST = 2_000
"""Trending, popular and new items kept in order."""


@dataclass(frozen=True)
class Vectors:
    """Retrieval vectors of all items, as one release makes them."""

    values: Floats
    """[count, R]"""
    rows: RowSlot
    """What they were made with."""
    stamps: Stamps
    """Of those rows."""
    index: Index | None = None


@dataclass(frozen=True)
class Picture:
    """All items at one moment; columns by slot [count]."""

    records: NDArray[Any]
    """Catalogue records."""
    available: NDArray[np.bool_]
    trending: Ints
    """Slots, best first."""
    popular: Ints
    newest: Ints
    stamps: Stamps
    """Of the catalogue this was taken from; what has not moved since need not be read again."""
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    """By release; one without retrieval matrices has none."""

    @property
    def count(self) -> int:
        """Items known."""
        return len(self.available)


@dataclass(frozen=True)
class Tower:
    """A release whose retrieval matrices make vectors, with the rows it is served with."""

    release: str
    matrices: Mapping[str, Floats]
    rows: RowSlot


def paint(table: ItemTable, last: Picture | None, towers: Sequence[Tower], popularity: Popularity) -> Picture:
    """A new picture; only what moved since the last one is read and computed."""
    count = table.count
    stamps = table.stamps("catalogue", count)
    moved = _moved(last.stamps if last else None, stamps)
    records = _renewed(last.records if last else None, table.catalogue, moved)
    available = filters.available(records)
    published = np.where(records["published_us"] > 0, records["published_us"], records["updated_us"])
    slots = np.arange(count)
    picture = Picture(
        records=records,
        available=available,
        trending=_best(table, popularity.trending, slots, available),
        popular=_best(table, popularity.popular, slots, available),
        newest=top(np.where(available, published.astype(np.float64), np.nan), MOST),
        stamps=stamps,
    )
    before = last.vectors if last else {}
    made = {t.release: _vectors(picture, table, before.get(t.release), t, moved) for t in towers if t.matrices}
    return replace(picture, vectors=made)


def _moved(before: Stamps | None, now: Stamps) -> NDArray[np.bool_]:
    moved = np.ones(len(now), np.bool_)
    if before is not None:
        known = min(len(before), len(now))
        moved[:known] = before[:known] != now[:known]
    return moved


def _renewed(
    before: NDArray[Any] | None, read: Callable[[Ints], NDArray[Any]], moved: NDArray[np.bool_]
) -> NDArray[Any]:
    """The records of before, with those that moved read again."""
    if before is None:
        return read(np.arange(len(moved)))
    records = np.resize(before, (len(moved), *before.shape[1:]))
    places = np.flatnonzero(moved)
    records[places] = read(places)
    return records


def values_of(table: ItemTable, feature: tuple[str, int] | None, slots: Ints) -> Floats:
    """One item feature (view, id) of slots, NaN where it is not known."""
    column = table.columns(feature[0]).get(feature[1]) if feature is not None else None
    if feature is None or column is None:
        return np.full(len(slots), np.nan, np.float32)
    return table.features(feature[0], slots).values[:, column]


def _best(table: ItemTable, feature: tuple[str, int] | None, slots: Ints, available: NDArray[np.bool_]) -> Ints:
    values = values_of(table, feature, slots)
    return top(np.where(available & (values > 0), values, np.nan), MOST)


def _vectors(
    picture: Picture, table: ItemTable, last: Vectors | None, tower: Tower, changed: NDArray[np.bool_]
) -> Vectors:
    same = last if last is not None and last.rows == tower.rows else None
    before, index = (same.values, same.index) if same is not None else (None, None)
    stamps = table.stamps(f"row:{tower.rows.name}", picture.count)
    moved = changed | _moved(same.stamps if same is not None else None, stamps)

    def vectors_at(places: Ints) -> Floats:
        rows = item_rows(table, tower.rows, places)
        return retrieve.item_vectors(picture.records["content"][places], rows.values, tower.matrices)

    vectors = _renewed(before, vectors_at, moved)
    if picture.count > EXACT:
        known = len(before) if index is not None and before is not None else 0
        places = np.flatnonzero(moved) if index is not None else np.arange(picture.count)
        index = indexed(index, vectors, places, known)
    return Vectors(vectors, tower.rows, stamps, index)


def indexed(index: Index | None, vectors: Floats, changed: Ints, known: int) -> Index:
    """The index with the changed vectors in it; the first `known` slots were in it before."""
    if index is None:
        index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", multi=False)
    again = changed[changed < known]
    if len(again):
        index.remove(again.astype(np.uint64))
    if len(changed):
        index.add(changed.astype(np.uint64), vectors[changed], threads=1)
    return index


def nearest(vectors: Vectors, vector: Floats, keep: NDArray[np.bool_], count: int) -> Ints:
    """Slots of the best matches among those to keep, best first."""
    if not vector.any():
        return np.zeros(0, np.int64)
    if vectors.index is None:
        return top(np.where(keep, vectors.values @ vector, -np.inf), count)
    found = np.asarray(vectors.index.search(vector, DEPTH * count).keys).astype(np.int64)
    return found[keep[found]][:count]


def first(slots: Ints, keep: NDArray[np.bool_], count: int) -> Ints:
    """The first of the slots that are to keep."""
    slots = slots[slots < len(keep)]
    return slots[keep[slots]][:count]


def sources(
    picture: Picture,
    keep: NDArray[np.bool_],
    near: tuple[Vectors, Floats] | None,
    recent: Ints,
    covisited: Ints,
    quotas: Quotas,
) -> list[tuple[str, Ints]]:
    """Slots by source. `near`: item vectors and the shopper's own; `recent`, `covisited`: newest or best first."""
    similar = nearest(*near, keep, quotas.similar) if near is not None else np.zeros(0, np.int64)
    known = [slots[(slots >= 0) & (slots < picture.count)] for slots in (covisited, recent)]
    return [
        (retrieve.SIMILAR, similar),
        (retrieve.COVISITED, first(known[0], keep, quotas.covisited)),
        (retrieve.TRENDING, first(picture.trending, keep, quotas.trending)),
        (retrieve.NEW, first(picture.newest, keep, quotas.new)),
        (retrieve.POPULAR, first(picture.popular, keep, quotas.popular)),
        (retrieve.RECENT, first(known[1], keep, quotas.recent)),
    ]
