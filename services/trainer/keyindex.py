"""Places of 64-bit keys: open addressing in numpy, many keys at a time, growing without a pause.

A full rehash of ten million keys takes a second; here the bigger table starts empty beside the old one and
every insertion moves a bounded part over, so that no step pays for the whole (as Redis' incremental rehash does).
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Slots = NDArray[np.int64]

ABSENT = -1
_EMPTY, _GONE = 0, -1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_LOAD = 0.5
"""Share of places in use at which a bigger table is begun: probes stay at one or two."""

_MOVE = 4
"""Places moved per inserted key: the old table is empty long before the new one is full."""

_LEAST_MOVE = 1024


class _Table:
    """One open-addressing table of 2^bits places; a place holds slot + 1, so that fresh zero pages are empty places."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.keys = np.zeros(1 << bits, np.uint64)
        self.places = np.zeros(1 << bits, np.int64)
        self.used = 0

    def find(self, keys: Keys) -> Slots:
        """Place in the arrays of each key, -1 when it is not there."""
        at, out = self._home(keys), np.full(len(keys), ABSENT, np.int64)
        left = np.arange(len(keys))
        while len(left):
            places = self.places[at]
            hit = (places > 0) & (self.keys[at] == keys[left])
            out[left[hit]] = at[hit]
            go = ~hit & (places != _EMPTY)
            left, at = left[go], self._next(at[go])
        return out

    def insert(self, keys: Keys, slots: Slots) -> None:
        """Put in keys that differ from each other and are not there yet."""
        at, left = self._home(keys), np.arange(len(keys))
        while len(left):
            before = self.places[at]
            free = before <= 0
            self.places[at[free]] = slots[left[free]] + 1  # of several keys at one free place the last one gets it
            won = free & (self.places[at] == slots[left] + 1)
            self.keys[at[won]] = keys[left[won]]
            self.used += int(np.count_nonzero(before[won] == _EMPTY))
            left, at = left[~won], self._next(at[~won])

    def _home(self, keys: Keys) -> Slots:
        return ((keys * _MULTIPLIER) >> np.uint64(64 - self.bits)).astype(np.int64)

    def _next(self, at: Slots) -> Slots:
        return (at + 1) & ((1 << self.bits) - 1)


class KeyIndex:
    """Key -> slot. Keys are already hashes (`ids.key_of`).

    >>> index = KeyIndex()
    >>> index.insert(np.array([7, 9], np.uint64), np.array([0, 1]))
    >>> index.find(np.array([9, 8, 7], np.uint64)).tolist()
    [1, -1, 0]
    """

    def __init__(self, bits: int = 12) -> None:
        self._now = _Table(bits)
        self._old: _Table | None = None
        self._moved = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> Slots:
        """Slots [n]; -1 = absent."""
        at = self._now.find(keys)
        out = np.where(at >= 0, self._now.places[at] - 1, ABSENT)
        if self._old is not None:
            missing = np.flatnonzero(at < 0)
            at = self._old.find(keys[missing])
            out[missing] = np.where(at >= 0, self._old.places[at] - 1, ABSENT)
        return out

    def insert(self, keys: Keys, slots: Slots) -> None:
        """Add keys that differ from each other and are absent."""
        self._count += len(keys)
        if self._now.used + len(keys) > _LOAD * len(self._now.keys):
            self._grow(len(keys))
        self._now.insert(keys, slots)
        self._move(max(_LEAST_MOVE, _MOVE * len(keys)))

    def remove(self, keys: Keys) -> None:
        """Take keys out; absent ones are nothing."""
        for table in (self._now, self._old):
            if table is not None:
                at = table.find(keys)
                at = np.unique(at[at >= 0])
                table.places[at] = _GONE
                self._count -= len(at)

    def _grow(self, coming: int) -> None:
        while self._old is not None:
            self._move(len(self._old.keys))
        bits = self._now.bits
        while _LOAD * (1 << bits) < 2 * (self._count + coming):
            bits += 1
        self._old, self._now, self._moved = self._now, _Table(bits), 0

    def _move(self, count: int) -> None:
        if self._old is None:
            return
        part = slice(self._moved, self._moved + count)
        places = self._old.places[part]
        live = places > 0
        self._now.insert(self._old.keys[part][live], places[live] - 1)
        # Marked as gone, not as empty: probes of keys further on go over these places.
        places[live] = _GONE
        self._moved += count
        if self._moved >= len(self._old.keys):
            self._old = None
