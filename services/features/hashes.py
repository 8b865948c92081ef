"""A hash table in arrays: many look-ups cost a few numpy calls instead of a dictionary entry each."""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]


def mix(values: Keys) -> Keys:
    """Scramble 64-bit numbers, one to one (the finaliser of splitmix64, Steele et al., 2014).

    >>> int(mix(np.array([1], np.uint64))[0]) != 1
    True
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def pair(left: Keys, right: Keys) -> Keys:
    """One key for two numbers; never 0. Two of a million pairs collide with probability 3e-8."""
    mixed = mix(right ^ mix(left + np.uint64(0x9E3779B97F4A7C15)))
    return np.maximum(mixed, np.uint64(1))


class HashIndex:
    """64-bit key (never 0) -> row number. Open addressing, linear probing, at most half full."""

    def __init__(self) -> None:
        self._keys: Keys = np.zeros(1024, np.uint64)
        self._rows: Ints = np.zeros(1024, np.int64)
        self._size = 0

    def find(self, keys: Keys) -> Ints:
        """Row of each key, -1 where there is none."""
        found = np.full(len(keys), -1, np.int64)
        limit = len(self._keys) - 1
        waiting = np.arange(len(keys))
        place = (keys & np.uint64(limit)).astype(np.int64)
        while len(waiting):
            there = self._keys[place]
            hit = there == keys[waiting]
            found[waiting[hit]] = self._rows[place[hit]]
            on = ~hit & (there != 0)
            waiting, place = waiting[on], (place[on] + 1) & limit
        return found

    def insert(self, keys: Keys, rows: Ints) -> None:
        """Add keys that are distinct and not there yet."""
        if 2 * (self._size + len(keys)) > len(self._keys):
            self._grow(self._size + len(keys))
        self._size += len(keys)
        limit = len(self._keys) - 1
        place = (keys & np.uint64(limit)).astype(np.int64)
        while len(keys):
            free = self._keys[place] == 0
            self._keys[place[free]] = keys[free]  # of several that want one place, the last gets it
            won = self._keys[place] == keys
            self._rows[place[won]] = rows[won]
            keys, rows, place = keys[~won], rows[~won], (place[~won] + 1) & limit

    def _grow(self, size: int) -> None:
        full = self._keys != 0
        keys, rows = self._keys[full], self._rows[full]
        room = 1 << int(4 * size - 1).bit_length()
        self._keys, self._rows, self._size = np.zeros(room, np.uint64), np.zeros(room, np.int64), 0
        self.insert(keys, rows)
