"""As-served impressions as model inputs: the one path from what was shown to what a model reads.

The trainer learns through it, the publisher judges through it, the gateway explains through it; so the
same impression and the same rows give the same arrays everywhere. Values are taken by feature id
(`columns_for`): an impression served by another release fits any spec, what it lacks is NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from freshrank.v1.events_pb2 import HistoryItem, Impression, ImpressionItem
from numpy.typing import NDArray

from services.common.content import content_matrix
from services.common.spec import Arrays, ModelSpec, columns_for, context_ids, zeros

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class RowLookup(Protocol):
    """Where embedding rows come from: the trainer's tables, or the rows a release is served with."""

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows [n, row_dim] and masks [n] (1 = there is a row; 0 = absent, its row is all zero) of items."""
        ...

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """The same for shoppers."""
        ...


class NoRows:
    """Nobody has a row: what a first release, or a request without the store, sees."""

    def __init__(self, row_dim: int) -> None:
        self._dim = row_dim

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """All absent."""
        return np.zeros((len(ids), self._dim), np.float32), np.zeros(len(ids), np.float32)

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """All absent."""
        return self.items(ids)


@dataclass(frozen=True)
class Layout:
    """Which id stands at which place of the arrays; `*_at` are (impression, place) index pairs, each [n]."""

    users: list[str]
    items: list[ImpressionItem]
    items_at: tuple[Ints, Ints]
    history: list[HistoryItem]
    history_at: tuple[Ints, Ints]
    batch: int
    candidates: int

    @property
    def item_ids(self) -> list[str]:
        """Ids of all candidates, impression by impression."""
        return [item.item_id for item in self.items]

    @property
    def history_ids(self) -> list[str]:
        """Ids of all history entries, impression by impression."""
        return [entry.item_id for entry in self.history]


def encode(
    impressions: Sequence[Impression],
    spec: ModelSpec,
    rows: RowLookup,
    items: Sequence[Sequence[int]] | None = None,
) -> Arrays:
    """Arrays named and shaped as `spec.input_shapes` says; N is the longest list, the rest is padding (mask 0).

    `items`: for each impression the indexes of the items to take, in this order; None takes all.
    Raises IndexError when an index is outside its impression.
    """
    layout = layout_of(impressions, spec, items)
    arrays = encode_values(impressions, spec, layout)
    fill_rows(arrays, layout, rows)
    return arrays


def layout_of(
    impressions: Sequence[Impression], spec: ModelSpec, items: Sequence[Sequence[int]] | None = None
) -> Layout:
    """Where each shopper, candidate and history entry goes."""
    chosen = [
        list(impression.items) if items is None else [impression.items[index] for index in items[number]]
        for number, impression in enumerate(impressions)
    ]
    histories = [list(impression.history)[: spec.history_length] for impression in impressions]
    return Layout(
        users=[impression.user_id for impression in impressions],
        items=list(chain.from_iterable(chosen)),
        items_at=_places(chosen),
        history=list(chain.from_iterable(histories)),
        history_at=_places(histories),
        batch=len(impressions),
        candidates=max(map(len, chosen), default=0),
    )


def encode_values(impressions: Sequence[Impression], spec: ModelSpec, layout: Layout) -> Arrays:
    """Everything of `encode` but the rows, which stay absent."""
    arrays = zeros(spec, layout.batch, layout.candidates)
    arrays["user"][:] = _user_features(impressions, spec)
    arrays["context"][:] = np.array(
        [context_ids(i.context.region, i.context.device, i.context.platform) for i in impressions], np.int64
    ).reshape(-1, 3)
    arrays["item"][layout.items_at] = _item_features(impressions, spec, layout)
    arrays["content"][layout.items_at] = content_matrix([i.content for i in layout.items], spec.content_dim)
    arrays["mask"][layout.items_at] = 1
    _fill_history(arrays, impressions, spec, layout)
    return arrays


def fill_rows(arrays: Arrays, layout: Layout, rows: RowLookup) -> None:
    """Put rows and their masks into arrays of `encode_values`: one look-up for items and history, one for shoppers."""
    found, masks = rows.items(layout.item_ids + layout.history_ids)
    count = len(layout.items)
    arrays["row"][layout.items_at] = found[:count]
    arrays["row_mask"][layout.items_at] = masks[:count, None]
    arrays["history_row"][layout.history_at] = found[count:]
    arrays["history_row_mask"][layout.history_at] = masks[count:, None]
    user_rows, user_masks = rows.users(layout.users)
    arrays["user_row"][:] = user_rows
    arrays["user_row_mask"][:] = user_masks[:, None]


def _places(groups: Sequence[Sequence[object]]) -> tuple[Ints, Ints]:
    lengths = np.array([len(group) for group in groups], np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(np.arange(len(groups)), lengths), np.arange(int(lengths.sum())) - starts


def _fill_history(arrays: Arrays, impressions: Sequence[Impression], spec: ModelSpec, layout: Layout) -> None:
    if not layout.history:
        return
    at, history = layout.history_at, layout.history
    now = np.array([impression.time_us for impression in impressions], np.int64)[at[0]]
    times = np.fromiter((entry.time_us for entry in history), np.int64, len(history))
    arrays["history_age"][at] = np.log1p(np.maximum(0, now - times) / 1e6)
    arrays["history_kind"][at] = np.fromiter((entry.kind for entry in history), np.int64, len(history))
    arrays["history_content"][at] = content_matrix([entry.content for entry in history], spec.content_dim)
    arrays["history_mask"][at] = 1


def _user_features(impressions: Sequence[Impression], spec: ModelSpec) -> Floats:
    columns = _columns(lambda ids: columns_for(spec.user_features, ids))
    out = np.full((len(impressions), len(spec.user_features)), np.nan, np.float32)
    for row, impression in zip(out, impressions, strict=True):
        place = columns(tuple(impression.user_feature_ids))
        values = np.array(impression.user_features, np.float32)
        if len(values) == len(impression.user_feature_ids):
            row[place >= 0] = values[place[place >= 0]]
    return out


def _item_features(impressions: Sequence[Impression], spec: ModelSpec, layout: Layout) -> Floats:
    """Values [items, features]; an item whose values do not match the named ids counts as absent."""
    columns = _columns(lambda ids: columns_for(spec.item_features, ids))
    out = np.full((len(layout.items), len(spec.item_features)), np.nan, np.float32)
    ends = np.searchsorted(layout.items_at[0], np.arange(layout.batch + 1))
    for number, impression in enumerate(impressions):
        start, end = int(ends[number]), int(ends[number + 1])
        ids = tuple(impression.item_feature_ids)
        place = columns(ids)
        whole = [k for k in range(start, end) if len(layout.items[k].features) == len(ids)]
        if whole and ids:
            flat = chain.from_iterable(layout.items[k].features for k in whole)
            values = np.fromiter(flat, np.float32, len(whole) * len(ids)).reshape(-1, len(ids))
            out[np.ix_(np.array(whole), np.flatnonzero(place >= 0))] = values[:, place[place >= 0]]
    return out


def _columns(find: Callable[[tuple[int, ...]], Ints]) -> Callable[[tuple[int, ...]], Ints]:
    """Remember the places for one call: the impressions of a batch come from very few releases."""
    known: dict[tuple[int, ...], Ints] = {}

    def columns(ids: tuple[int, ...]) -> Ints:
        if ids not in known:
            known[ids] = find(ids)
        return known[ids]

    return columns
