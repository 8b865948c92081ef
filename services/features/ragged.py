"""Rows of varying number per key, in columns: the memory under every kind of state.

Log-structured: replacing a key's rows writes the new ones at the end and leaves the old ones as waste; when the room
ends, the live rows are copied together. So a batch of keys is one slice assignment per column, whatever its size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]

_FIRST_ROWS = 1024


class Ragged:
    """`fields`: name -> (dtype, width); width 0 is a column [rows], otherwise a matrix [rows, width]."""

    def __init__(self, fields: Mapping[str, tuple[Any, int]]) -> None:
        self._fields = dict(fields)
        self._starts: Ints = np.zeros(0, np.int64)
        self._counts: Ints = np.zeros(0, np.int64)
        self._data = self._room(0)
        self._end = 0
        self.live = 0
        """Rows that belong to a key."""

    def _room(self, rows: int) -> Columns:
        return {
            name: np.zeros((rows, width) if width else rows, dtype) for name, (dtype, width) in self._fields.items()
        }

    def counts(self, slots: Ints) -> Ints:
        """Number of rows of each key, shape [slots]."""
        self._reach(slots)
        return self._counts[slots]

    def gather(self, slots: Ints) -> tuple[Ints, Columns]:
        """Rows of these keys: (index into `slots` of each row, its columns), in the order they were put."""
        self._reach(slots)
        counts = self._counts[slots]
        owner = np.repeat(np.arange(len(slots)), counts)
        first = np.cumsum(counts) - counts
        at = np.arange(len(owner)) + np.repeat(self._starts[slots] - first, counts)
        return owner, {name: column[at] for name, column in self._data.items()}

    def replace(self, slots: Ints, counts: Ints, columns: Mapping[str, NDArray[Any]]) -> None:
        """Give these keys other rows: `counts[i]` rows for `slots[i]`, one key after the other."""
        self._reach(slots)
        total = int(counts.sum())
        self.live += total - int(self._counts[slots].sum())
        self._counts[slots] = 0
        if self._end + total > len(next(iter(self._data.values()))):
            self._compact(total)
        for name, column in self._data.items():
            column[self._end : self._end + total] = columns[name]
        self._starts[slots] = self._end + np.cumsum(counts) - counts
        self._counts[slots] = counts
        self._end += total

    def _reach(self, slots: Ints) -> None:
        if len(slots) and (needed := int(slots.max()) + 1) > len(self._counts):
            grown = max(needed, 2 * len(self._counts), 64)
            self._starts = np.concatenate([self._starts, np.zeros(grown - len(self._starts), np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(grown - len(self._counts), np.int64)])

    def _compact(self, more: int) -> None:
        slots = np.flatnonzero(self._counts)
        _, columns = self.gather(slots)
        counts = self._counts[slots]
        kept = int(counts.sum())
        self._data = self._room(max(_FIRST_ROWS, 2 * (kept + more)))
        for name, column in self._data.items():
            column[:kept] = columns[name]
        self._starts[slots] = np.cumsum(counts) - counts
        self._end = kept

    def translate(self, name: str, codes: Ints) -> None:
        """Renumber the values of a column: value v becomes `codes[v]`."""
        column = self._data[name][: self._end]
        column[:] = codes[column]

    def save(self, slots: Ints) -> Columns:
        """Rows of these keys, one key after the other, and `counts`; keys are numbered anew from 0."""
        _, columns = self.gather(slots)
        return {"counts": self.counts(slots).copy(), **columns}

    def load(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `save` gave into an empty store."""
        self.replace(np.arange(len(columns["counts"])), columns["counts"], columns)


def drop(owner: Ints, keep: NDArray[np.bool_], size: int, columns: Mapping[str, NDArray[Any]]) -> tuple[Ints, Columns]:
    """Keep some gathered rows: (counts for `replace`, columns)."""
    return np.bincount(owner[keep], minlength=size), {name: column[keep] for name, column in columns.items()}


def rank_in_group(owner: Ints) -> Ints:
    """Place of each row among its neighbours of the same owner (rows sorted by owner).

    >>> rank_in_group(np.array([0, 0, 2, 2, 2])).tolist()
    [0, 1, 0, 1, 2]
    """
    starts = group_starts(owner)
    return np.arange(len(owner)) - np.repeat(starts, np.diff(np.append(starts, len(owner))))


def group_starts(*keys: NDArray[Any]) -> Ints:
    """Where a new group begins in rows sorted by `keys`.

    >>> group_starts(np.array([3, 3, 5]), np.array([1, 2, 2])).tolist()
    [0, 1, 2]
    """
    size = len(keys[0])
    if not size:
        return np.zeros(0, np.int64)
    new = np.ones(size, np.bool_)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.flatnonzero(new)


def slices(owner: Ints, size: int) -> Sequence[tuple[int, int]]:
    """(start, end) of the rows of each of `size` owners, in rows sorted by owner."""
    ends = np.cumsum(np.bincount(owner, minlength=size)).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
