"""The newest closed impressions with their final labels, and what a model file says about them.

Whole batches are kept: features and histories of an impression are encoded once per spec; only the rows are looked
up again, because they are the ones that change.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
from freshrank.v1.events_pb2 import DEGRADATION_STALE_FEATURES, Impression
from numpy.typing import NDArray

from services.common.encode import Layout, RowLookup, encode_values, fill_rows, layout_of
from services.common.spec import Arrays, ModelSpec

BATCH = 64
"""Impressions encoded and scored together."""

CACHE_BYTES = 256 << 20
"""Encoded batches kept at most; beyond it they are encoded anew."""


_OF_ROWS = ("row", "row_mask", "history_row", "history_row_mask", "user_row", "user_row_mask")


class Model(Protocol):
    """Anything that scores a batch."""

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        """Scores [B, N, heads]."""
        ...


@dataclass(frozen=True)
class Closed:
    """One impression whose click window has ended: `labels` [items] of heads as bits, for `items` in this order.

    `heads`: what the bits mean, from the lowest; empty = the heads of whatever model is looked at.
    """

    impression: Impression
    items: tuple[int, ...]
    labels: tuple[int, ...]
    heads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Candidates of many impressions, flat: `labels` and `scores` [n, heads], `groups` [n] the impression's number."""

    labels: NDArray[np.float32]
    scores: NDArray[np.float32]
    groups: NDArray[np.int64]

    @property
    def impressions(self) -> int:
        """How many impressions there are."""
        return len(np.unique(self.groups))


@dataclass
class _Batch:
    closed: list[Closed]
    encoded: dict[str, tuple[Arrays, Layout]] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        return self.closed[0].heads

    @property
    def candidates(self) -> int:
        return sum(len(closed.items) for closed in self.closed)

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for arrays, _ in self.encoded.values() for array in arrays.values())


class Replay:
    """Keeps the newest impressions and at most one batch more than asked for; not for several threads."""

    def __init__(self, limit: int, candidates: int = 2**62, least: int = 0, cache_bytes: int = CACHE_BYTES) -> None:
        """`limit` impressions with `candidates` in all; `least` impressions stay, however long their lists."""
        self._limit, self._cache_bytes = limit, cache_bytes
        self._limit_candidates, self._least = candidates, least
        self._batches: deque[_Batch] = deque()
        self._count = self._candidates = 0

    def __len__(self) -> int:
        return self._count

    def add(self, closed: Closed) -> None:
        """Keep one more; impressions answered without features or a model are left out, as in training."""
        if closed.impression.degradation > DEGRADATION_STALE_FEATURES or not closed.items:
            return
        if not self._batches or len(self._batches[-1].closed) >= BATCH or self._batches[-1].heads != closed.heads:
            self._batches.append(_Batch([]))
        batch = self._batches[-1]
        batch.closed.append(closed)
        batch.encoded.clear()
        self._count += 1
        self._candidates += len(closed.items)
        while self._spared(self._batches[0]):
            oldest = self._batches.popleft()
            self._count -= len(oldest.closed)
            self._candidates -= oldest.candidates

    def searches(self, most: int) -> list[Closed]:
        """The newest impressions that answered a query, newest first."""
        found = (c for batch in reversed(self._batches) for c in reversed(batch.closed) if c.impression.query)
        return list(islice(found, most))

    def forget(self, user: str, before_us: int) -> None:
        """Drop a shopper's impressions from before a time; a snapshot that was taken keeps them while it is used."""
        batches: deque[_Batch] = deque()
        for batch in self._batches:
            kept = [c for c in batch.closed if c.impression.user_id != user or c.impression.time_us >= before_us]
            batches.append(batch if len(kept) == len(batch.closed) else _Batch(kept))
        self._batches = deque(batch for batch in batches if batch.closed)
        self._count = sum(len(batch.closed) for batch in self._batches)
        self._candidates = sum(batch.candidates for batch in self._batches)

    def snapshot(self, candidates: int = 0) -> "Snapshot":
        """The batches as they are now, for another thread; `candidates` > 0: the last whole batches with so many."""
        batches = _last(self._batches, candidates) if candidates else self._batches
        taken = [_Batch(list(b.closed), b.encoded if len(b.closed) == BATCH else {}) for b in batches]
        return Snapshot(taken, self._cache_bytes)

    def _spared(self, oldest: _Batch) -> bool:
        """The others are enough."""
        others = self._count - len(oldest.closed)
        if others >= self._limit:
            return True
        return others >= self._least and self._candidates - oldest.candidates >= self._limit_candidates


class Snapshot:
    """A fixed set of closed impressions."""

    def __init__(self, batches: list[_Batch], cache_bytes: int = CACHE_BYTES) -> None:
        self._batches, self._cache_bytes = batches, cache_bytes

    def __len__(self) -> int:
        return sum(len(batch.closed) for batch in self._batches)

    @property
    def closed(self) -> Iterator[Closed]:
        """The impressions, the oldest first."""
        return (closed for batch in self._batches for closed in batch.closed)

    def score(self, models: Sequence[Model], spec: ModelSpec, rows: RowLookup) -> list[Scored]:
        """Score every kept impression with each model over the same inputs, but those without a head of the spec's."""
        parts: list[list[NDArray[np.float32]]] = [[] for _ in models]
        labels, groups, number = [], [], 0
        room = self._cache_bytes - sum(batch.bytes for batch in self._batches)
        for batch in self._batches:
            bits = _bits_of(spec.heads, batch.heads)
            if bits is None:
                continue
            shared, layout, room = _encoded(batch, spec, room)
            # Other threads may be looking up other rows for the same impressions.
            arrays = {**shared, **{name: np.zeros_like(shared[name]) for name in _OF_ROWS}}
            fill_rows(arrays, layout, rows)
            for part, model in zip(parts, models, strict=True):
                part.append(model.run(arrays)[layout.items_at])
            labels.append(_labels(batch.closed, bits))
            groups.append(layout.items_at[0] + number)
            number += len(batch.closed)
        if not labels:
            return [_nothing(len(spec.heads)) for _ in models]
        truth, group = np.concatenate(labels), np.concatenate(groups)
        return [Scored(truth, np.concatenate(part), group) for part in parts]


def _last(batches: Sequence[_Batch], candidates: int) -> Sequence[_Batch]:
    """The last batches with so many candidates, of those that are encoded once; all of them when these are too few."""
    chosen: list[_Batch] = []
    for batch in reversed(batches):
        if len(batch.closed) == BATCH:
            chosen.append(batch)
            candidates -= batch.candidates
            if candidates <= 0:
                return chosen[::-1]
    return batches


def _encoded(batch: _Batch, spec: ModelSpec, room: int) -> tuple[Arrays, Layout, int]:
    key = repr(spec)
    if key not in batch.encoded:
        impressions, items = [c.impression for c in batch.closed], [c.items for c in batch.closed]
        layout = layout_of(impressions, spec, items)
        arrays = encode_values(impressions, spec, layout)
        size = sum(array.nbytes for array in arrays.values())
        if size > room:
            return arrays, layout, room
        if len(batch.encoded) > 1:
            batch.encoded.pop(next(iter(batch.encoded)))
        batch.encoded[key] = (arrays, layout)
        room -= size
    return *batch.encoded[key], room


def _bits_of(wanted: Sequence[str], heads: Sequence[str]) -> NDArray[np.int64] | None:
    """Bit of each wanted head in labels of these heads; None when one of them has none.

    >>> _bits_of(("click", "purchase"), ("click", "cart", "purchase"))
    array([0, 2])
    >>> _bits_of(("rate",), ("click", "cart")) is None
    True
    """
    if not heads:
        return np.arange(len(wanted))
    return np.array([heads.index(head) for head in wanted]) if set(wanted) <= set(heads) else None


def _labels(closed: Iterable[Closed], bits: NDArray[np.int64]) -> NDArray[np.float32]:
    flat = np.array([label for c in closed for label in c.labels], np.uint8)
    return ((flat[:, None] >> bits) & 1).astype(np.float32)


def _nothing(heads: int) -> Scored:
    empty = np.zeros((0, heads), np.float32)
    return Scored(empty, empty, np.zeros(0, np.int64))
