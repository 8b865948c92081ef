"""The most frequent values of each key over a sliding window: `top_k`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.features.aggregates import Ints
from services.features.ragged import Ragged, drop, group_starts, slices
from services.features.windows import NEVER


@dataclass(frozen=True)
class Counted:
    """Counts of some keys, sorted by key, value and tile."""

    owner: Ints
    value: Ints
    tile: Ints
    count: Ints
    size: int
    now: int


class TopStore:
    """How often each key had each value, per tile."""

    def __init__(self, slide_us: int, tiles: int) -> None:
        self.slide_us, self.tiles = slide_us, tiles
        self.rows = Ragged({name: (np.int64, 0) for name in ("value", "tile", "count")})

    def update(self, slots: Ints, owner: Ints, fresh: Mapping[str, NDArray[Any]], clock_us: int) -> Counted:
        """Add counts of values (`value`, `time_us`, `count`) to the keys `slots[owner]`; return all of `slots`."""
        now = clock_us // self.slide_us
        held, columns = self.rows.gather(slots)
        if len(owner) or (columns["tile"] <= now - self.tiles).any():
            given = {**fresh, "tile": fresh["time_us"] // self.slide_us}
            held = np.concatenate([held, owner])
            columns = {name: np.concatenate([column, given[name]]) for name, column in columns.items()}
            held, columns = self._merged(held, columns, now)
            self.rows.replace(slots, np.bincount(held, minlength=len(slots)), columns)
        return Counted(held, columns["value"], columns["tile"], columns["count"], len(slots), now)

    def _merged(self, owner: Ints, columns: dict[str, NDArray[Any]], now: int) -> tuple[Ints, dict[str, Any]]:
        order = np.lexsort((columns["tile"], columns["value"], owner))
        order = order[columns["tile"][order] > now - self.tiles]
        owner, value, tile = owner[order], columns["value"][order], columns["tile"][order]
        starts = group_starts(owner, value, tile)
        count = np.add.reduceat(columns["count"][order], starts) if len(starts) else columns["count"][:0]
        return owner[starts], {"value": value[starts], "tile": tile[starts], "count": count}

    def forget(self, slots: Ints, before_us: int) -> None:
        """Drop the tiles of these keys that began at or before a time."""
        owner, columns = self.rows.gather(slots)
        counts, kept = drop(owner, columns["tile"] > before_us // self.slide_us, len(slots), columns)
        self.rows.replace(slots, counts, kept)


def top(counted: Counted, window: int, k: int, meaning: Callable[[Ints], list[Any]]) -> list[list[Any]]:
    """The k most frequent values of each key in a window; equally frequent ones by value."""
    inside = counted.tile > counted.now - window
    owner, value, count = counted.owner[inside], counted.value[inside], counted.count[inside]
    starts = group_starts(owner, value)
    sums = np.add.reduceat(count, starts) if len(starts) else count
    named = list(zip((-sums).tolist(), meaning(value[starts]), strict=True))
    return [[name for _, name in sorted(named[a:b])[:k]] for a, b in slices(owner[starts], counted.size)]


def falls_us(counted: Counted, store: TopStore, window: int) -> Ints:
    """When the oldest tile of each key leaves a window."""
    inside = counted.tile > counted.now - window
    falls = np.full(counted.size, NEVER, np.int64)
    np.minimum.at(falls, counted.owner[inside], (counted.tile[inside] + window) * store.slide_us)
    return falls
