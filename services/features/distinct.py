"""Distinct values over sliding windows, exactly: each value counts at the newest tile it was seen in.

A value seen again moves: -1 at its old tile, +1 at the new one. So the number of distinct values in a window is a sum
over its tiles like any other, whatever the order of arrival, and a popular key costs no more than a rare one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.features.hashes import HashIndex, pair

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

_FIRST_SWEEP = 4096


class Seen:
    """Newest tile of each (key, value). Keys are serial numbers, never used twice."""

    def __init__(self) -> None:
        self._index = HashIndex()
        self._columns: dict[str, NDArray[Any]] = {
            "serial": np.zeros(1024, np.int64),
            "value": np.zeros(1024, np.uint64),
            "tile": np.zeros(1024, np.int64),
        }
        self.size = 0
        self._sweep_at = _FIRST_SWEEP

    def add(self, serial: Ints, value: Keys, tile: Ints) -> tuple[Ints, Ints, NDArray[np.float64]]:
        """Take sightings; returns what changes: (row of the argument, tile, +1 or -1), each [m]."""
        keys = pair(serial.astype(np.uint64), value)
        order = np.lexsort((tile, keys))
        last = np.ones(len(order), np.bool_)
        last[:-1] = keys[order][1:] != keys[order][:-1]
        newest = order[last]
        found = self._index.find(keys[newest])
        new = newest[found < 0]
        old, at = newest[found >= 0], found[found >= 0]
        moved = tile[old] > self._columns["tile"][at]
        old, at = old[moved], at[moved]
        before = self._columns["tile"][at].copy()
        self._columns["tile"][at] = tile[old]
        self._append(keys[new], serial[new], value[new], tile[new])
        rows = np.concatenate([new, old, old])
        signs = np.concatenate([np.ones(len(new) + len(old)), -np.ones(len(old))])
        return rows, np.concatenate([tile[new], tile[old], before]), signs

    def _append(self, keys: Keys, serial: Ints, value: Keys, tile: Ints) -> None:
        end = self.size + len(keys)
        if end > len(self._columns["tile"]):
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros(end, column.dtype)])
        for name, column in zip(("serial", "value", "tile"), (serial, value, tile), strict=True):
            self._columns[name][self.size : end] = column
        self._index.insert(keys, np.arange(self.size, end))
        self.size = end

    def sweep(self, oldest_tile: int) -> None:
        """Let go of values not seen since `oldest_tile`; does nothing until there are enough of them."""
        if self.size >= self._sweep_at:
            self._keep(self._columns["tile"][: self.size] >= oldest_tile)

    def forget(self, serial: Ints, until_tile: int) -> None:
        """Let go of what these keys saw at or before a tile."""
        columns = self.save()
        self._keep(~(np.isin(columns["serial"], serial) & (columns["tile"] <= until_tile)))

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        self.load({name: column[: self.size][keep] for name, column in self._columns.items()})

    def save(self) -> dict[str, NDArray[Any]]:
        """All columns, by value."""
        return {name: column[: self.size].copy() for name, column in self._columns.items()}

    def load(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `save` gave."""
        self._columns = {name: np.array(column) for name, column in columns.items()}
        self.size = len(columns["tile"])
        self._index = HashIndex()
        self._index.insert(
            pair(self._columns["serial"].astype(np.uint64), self._columns["value"]), np.arange(self.size)
        )
        self._sweep_at = max(_FIRST_SWEEP, 2 * self.size)
