"""The candidates of one request as columns: from the item table, and from the online store where it has a gap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.gateway.schema import Schema
from services.gateway.shopper import ItemMisses
from services.gateway.table import ItemTable, Values

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


TOLD, TOLD_FROM = 3, 0.1
"""Categories of a query that people are told, at most, and the probability from which they are."""


@dataclass(frozen=True)
class Match:
    """How candidates match the words that were searched for; columns [n]."""

    words: int
    """Words of the query."""
    lexical: Floats
    """BM25; NaN = no word of it matches."""
    similarity: Floats
    """Cosine of the vectors of query and item; NaN = not known."""
    asked: Mapping[str, float] = field(default_factory=dict)
    """Probability of each category that the query may ask for, the most probable first; empty = not told."""


def surest(match: Match | None) -> list[tuple[str, float]]:
    """The categories that a query most probably asks for, for people.

    >>> surest(Match(1, np.zeros(0), np.zeros(0), {"shoes": 0.8, "hats": 0.15, "bags": 0.05}))
    [('shoes', 0.8), ('hats', 0.15)]
    """
    told = match.asked.items() if match is not None else ()
    return [(name, chance) for name, chance in told if chance >= TOLD_FROM][:TOLD]


@dataclass(frozen=True)
class Wanted:
    """What the caller says about each candidate; columns [n]."""

    ids: Sequence[str]
    prior_rank: Ints
    """1 = first; 0 = none."""
    price: Floats
    """Price in this request; NaN = the catalogue's."""
    bid: Floats
    campaign: Sequence[str]
    match: Match | None = None
    """None = nothing was searched for."""

    @staticmethod
    def of(ids: Sequence[str]) -> "Wanted":
        """Candidates about which nothing is said."""
        n = len(ids)
        nothing = np.full(n, np.nan, np.float32)
        return Wanted(ids, np.zeros(n, np.int64), nothing, np.zeros(n, np.float32), [""] * n)


@dataclass(frozen=True)
class ItemRows:
    """Embedding rows of some items."""

    values: Floats
    """[n, row_dim]; zero where there is none."""
    mask: NDArray[np.bool_]
    seq: Ints
    """Sequence of each row; 0 = none."""
    epoch: NDArray[np.uint64]
    time_us: Ints


@dataclass(frozen=True)
class Candidates:
    """Everything about the candidates that does not depend on the shopper."""

    wanted: Wanted
    slots: Ints
    index: Mapping[str, int]
    """Id -> place."""
    records: NDArray[Any]
    """Catalogue records, dtype table.CATALOGUE."""
    features: Floats
    """[n, schema's item features]: item views are filled, the rest is NaN."""
    pos: Ints
    """Fold position of each view of `Schema.positioned`, [n, views]; those of pairs are 0 until filled."""
    time_us: Ints
    """[n] newest event time in the item features; 0 = none."""
    rows: ItemRows
    price: Floats
    categories: Sequence[str] = ()
    """Distinct main categories."""
    category: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[n] place of each candidate's main category in `categories`; -1 = none."""

    def __len__(self) -> int:
        return len(self.wanted.ids)


@dataclass(frozen=True)
class RowSlot:
    """Which embedding rows a release is served with."""

    name: str = ""
    """"a" or "b"; empty = none."""
    dim: int = 0
    epoch: int = 0
    """Rows of an earlier epoch were left by another lineage and count as absent."""


def gather(table: ItemTable, schema: Schema, wanted: Wanted, row_slot: RowSlot) -> Candidates:
    """Read the columns of the candidates."""
    slots = table.slots(wanted.ids)
    records = table.catalogue(slots)
    features = np.full((len(slots), len(schema.item)), np.nan, np.float32)
    pos = np.zeros((len(slots), len(schema.positioned)), np.int64)
    time_us = np.zeros(len(slots), np.int64)
    for place, view in enumerate(schema.item_views):
        got, columns = table.features(view.view, slots), table.columns(view.view)
        source = np.array([columns.get(feature, -1) for feature in view.ids], np.int64)
        features[:, view.places[source >= 0]] = got.values[:, source[source >= 0]]
        pos[:, place] = got.seq
        np.maximum(time_us, got.time_us, out=time_us)
    codes, category = np.unique(records["categories"][:, 0], return_inverse=True)
    none = int(len(codes) > 0 and codes[0] < 0)
    return Candidates(
        wanted=wanted,
        slots=slots,
        index={item: place for place, item in enumerate(wanted.ids)},
        records=records,
        features=features,
        pos=pos,
        time_us=time_us,
        rows=item_rows(table, row_slot, slots),
        price=np.where(np.isnan(wanted.price), records["price"], wanted.price),
        categories=table.category_names(codes[none:]),
        category=category - none,
    )


def item_rows(table: ItemTable, row_slot: RowSlot, slots: Ints) -> ItemRows:
    """Rows of items by their place in the table."""
    got: Values = table.rows(row_slot.name, slots, row_slot.dim)
    mask = got.present & (got.epoch >= row_slot.epoch)
    got.values[~mask] = 0
    return ItemRows(got.values, mask, np.where(mask, got.seq, 0), got.epoch, got.time_us)


def fill_misses(candidates: Candidates, schema: Schema, misses: ItemMisses) -> None:
    """Put what the online store holds of items the table has not seen into the columns."""
    if not misses.ids:
        return
    places = np.array([candidates.index[item] for item in misses.ids], np.int64)
    for place, view in enumerate(schema.item_views):
        if view.view in misses.views:
            candidates.features[places[:, None], view.places] = misses.views[view.view]
            candidates.pos[places, place] = misses.pos[view.view]
    if misses.rows is not None and misses.row_mask is not None and misses.row_seq is not None:
        candidates.rows.values[places] = misses.rows
        candidates.rows.mask[places] = misses.row_mask
        candidates.rows.seq[places] = misses.row_seq
