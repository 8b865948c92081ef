"""The catalogue as candidates come from it: vectors, popularity and age of all items, renewed as they change.

A refresh runs in a thread beside the requests; they use the last whole picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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

EXACT = 50_000
"""Items up to which every vector is compared (about 1 ms); above it an approximate index is asked."""

DEPTH = 4
"""An approximate index, which does not know the filters, is asked for so many times the quota."""


@dataclass(frozen=True)
class Picture:
    """All items at one moment; columns by slot [count]."""

    records: NDArray[Any]
    """Catalogue records."""
    available: NDArray[np.bool_]
    vectors: Floats | None
    """[count, R]; None without a release that has retrieval matrices."""
    index: Index | None
    trending: Ints
    """Slots, best first."""
    popular: Ints
    newest: Ints
    release: str
    row_stamps: NDArray[np.uint32]
    catalogue_stamps: NDArray[np.uint32]

    @property
    def count(self) -> int:
        """Items known."""
        return len(self.available)


MOST = 2_000
"""Trending, popular and new items kept in order."""


def paint(
    table: ItemTable,
    last: Picture | None,
    release: str,
    matrices: Mapping[str, Floats],
    rows: RowSlot,
    popularity: Popularity,
) -> Picture:
    """A new picture; vectors are computed only for what changed since the last one of the same release."""
    slots = np.arange(table.count)
    catalogue_stamps, row_stamps = table.catalogue_stamps(), table.row_stamps(rows.name)
    slots = slots[: min(len(catalogue_stamps), len(row_stamps))]
    records = table.catalogue(slots)
    picture_stamps = (row_stamps[: len(slots)], catalogue_stamps[: len(slots)])
    vectors, index = None, None
    if matrices:
        vectors, index = _vectors(table, last, release, matrices, rows, records, picture_stamps)
    available = filters.available(records)
    published = np.where(records["published_us"] > 0, records["published_us"], records["updated_us"])
    return Picture(
        records=records,
        available=available,
        vectors=vectors,
        index=index,
        trending=_best(table, popularity.trending, slots, available),
        popular=_best(table, popularity.popular, slots, available),
        newest=top(np.where(available, published.astype(np.float64), np.nan), MOST),
        release=release,
        row_stamps=picture_stamps[0],
        catalogue_stamps=picture_stamps[1],
    )


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
    table: ItemTable,
    last: Picture | None,
    release: str,
    matrices: Mapping[str, Floats],
    rows: RowSlot,
    records: NDArray[Any],
    stamps: tuple[NDArray[np.uint32], NDArray[np.uint32]],
) -> tuple[Floats, Index | None]:
    count = len(records)
    vectors = np.zeros((count, matrices["content"].shape[1]), np.float32)
    changed = np.ones(count, np.bool_)
    index = None
    if last is not None and last.release == release and last.vectors is not None:
        known = min(len(last.vectors), count)
        vectors[:known] = last.vectors[:known]
        same_row, same_entry = (
            old[:known] == new[:known]
            for old, new in zip((last.row_stamps, last.catalogue_stamps), stamps, strict=True)
        )
        changed[:known] = ~(same_row & same_entry)
        index = last.index
    places = np.flatnonzero(changed)
    got = item_rows(table, rows, places)
    vectors[places] = retrieve.item_vectors(records["content"][places], got.values, matrices)
    if count <= EXACT:
        return vectors, None
    known = len(last.vectors) if index is not None and last is not None and last.vectors is not None else 0
    return vectors, indexed(index, vectors, places if index is not None else slots_of(count), known)


def slots_of(count: int) -> Ints:
    """All slots."""
    return np.arange(count, dtype=np.int64)


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


def nearest(picture: Picture, vector: Floats, keep: NDArray[np.bool_], count: int) -> Ints:
    """Slots of the best matches among those to keep, best first."""
    if picture.vectors is None or not vector.any():
        return np.zeros(0, np.int64)
    if picture.index is None:
        return top(np.where(keep, picture.vectors @ vector, -np.inf), count)
    found = np.asarray(picture.index.search(vector, DEPTH * count).keys).astype(np.int64)
    return found[keep[found]][:count]


def first(slots: Ints, keep: NDArray[np.bool_], count: int) -> Ints:
    """The first of the slots that are to keep."""
    slots = slots[slots < len(keep)]
    return slots[keep[slots]][:count]


def sources(
    picture: Picture, keep: NDArray[np.bool_], vector: Floats | None, recent: Ints, covisited: Ints, quotas: Quotas
) -> list[tuple[str, Ints]]:
    """Slots by source; `recent` and `covisited` are the shopper's own, newest or best first."""
    similar = nearest(picture, vector, keep, quotas.similar) if vector is not None else np.zeros(0, np.int64)
    known = [slots[(slots >= 0) & (slots < picture.count)] for slots in (covisited, recent)]
    return [
        (retrieve.SIMILAR, similar),
        (retrieve.COVISITED, first(known[0], keep, quotas.covisited)),
        (retrieve.TRENDING, first(picture.trending, keep, quotas.trending)),
        (retrieve.NEW, first(picture.newest, keep, quotas.new)),
        (retrieve.POPULAR, first(picture.popular, keep, quotas.popular)),
        (retrieve.RECENT, first(known[1], keep, quotas.recent)),
    ]
