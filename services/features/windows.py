"""Sliding windows over tiles: state per key and tile, values per key and window.

Time is cut into tiles as long as the slide. At log clock T the window holds the tiles
(tile(T) - window/slide, tile(T)], so a value also falls when its oldest tile leaves and nothing happens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.features.aggregates import Component, Floats, Ints, Layout
from services.features.distinct import Seen
from services.features.ragged import Ragged, drop, group_starts

NEVER = 2**62
"""A time that does not come, microseconds."""


@dataclass(frozen=True)
class Tiles:
    """Partial states of some keys, sorted by key and tile: `owner` is the key's place in the question."""

    owner: Ints
    tile: Ints
    cells: Floats
    size: int
    now: int
    """The tile of the log clock."""


class TileStore:
    """States of all keys for one slide. `tiles`: length of the longest window on it."""

    def __init__(self, slide_us: int, tiles: int, layout: Layout) -> None:
        self.slide_us, self.tiles, self.layout = slide_us, tiles, layout
        self.rows = Ragged({"tile": (np.int64, 0), "cells": (np.float64, layout.width)})
        self.seen = {part: Seen() for part in layout.parts if part.kind == "seen"}

    def tile(self, time_us: Any) -> Any:
        """Tile of a time, or of many."""
        return time_us // self.slide_us

    def update(self, slots: Ints, owner: Ints, time_us: Ints, cells: Floats, clock_us: int) -> Tiles:
        """Merge single states [m, width] into the keys `slots[owner]`, drop what has left the longest window, and
        return what all of `slots` hold."""
        now = int(self.tile(clock_us))
        held, columns = self.rows.gather(slots)
        tile = columns["tile"]
        keep = tile > now - self.tiles
        if not len(owner) and keep.all():
            return Tiles(held, tile, columns["cells"], len(slots), now)
        owner = np.concatenate([held[keep], owner])
        tile = np.concatenate([tile[keep], self.tile(time_us)])
        cells = np.concatenate([columns["cells"][keep], cells])
        owner, tile, cells = self._merged(owner, tile, cells, now)
        self.rows.replace(slots, np.bincount(owner, minlength=len(slots)), {"tile": tile, "cells": cells})
        return Tiles(owner, tile, cells, len(slots), now)

    def _merged(self, owner: Ints, tile: Ints, cells: Floats, now: int) -> tuple[Ints, Ints, Floats]:
        span = self.tiles + 2
        age = now - tile  # 0 = the newest; a late row can be older than every window
        inside = age < self.tiles
        if not inside.all():
            owner, tile, cells, age = owner[inside], tile[inside], cells[inside], age[inside]
        order = np.argsort(owner * span + (self.tiles - age), kind="stable")
        owner, tile, cells = owner[order], tile[order], cells[order]
        starts = group_starts(owner, tile)
        return owner[starts], tile[starts], self.layout.reduce(cells, starts)

    def sightings(self, part: Component, serial: Ints, value: NDArray[np.uint64], time_us: Ints) -> "Changes":
        """Distinct values seen: which rows change the component `part`, at which time, by how much."""
        rows, tile, signs = self.seen[part].add(serial, value, self.tile(time_us))
        cells = np.zeros((len(rows), self.layout.width))
        cells[:] = self.layout.identity
        cells[:, self.layout.place[part]] = signs
        return Changes(rows, tile * self.slide_us, cells)

    def sweep(self, clock_us: int) -> None:
        """Let go of distinct values that no window holds."""
        for seen in self.seen.values():
            seen.sweep(int(self.tile(clock_us)) - self.tiles + 1)

    def forget(self, slots: Ints, serial: Ints, before_us: int) -> None:
        """Drop the tiles of these keys that began at or before a time."""
        until = int(self.tile(before_us))
        owner, columns = self.rows.gather(slots)
        counts, kept = drop(owner, columns["tile"] > until, len(slots), columns)
        self.rows.replace(slots, counts, kept)
        for seen in self.seen.values():
            seen.forget(serial, until)


@dataclass(frozen=True)
class Changes:
    """Single states to merge, and the row each came from."""

    rows: Ints
    time_us: Ints
    cells: Floats


@dataclass(frozen=True)
class Totals:
    """States of each key over one window."""

    states: Floats
    """[size, width]; the identity where there is nothing."""
    falls_us: Ints
    """When the oldest tile leaves the window, per key; NEVER where there is nothing."""


def totals(tiles: Tiles, store: TileStore, window: int) -> Totals:
    """Merge the tiles inside a window of `window` slides."""
    inside = tiles.tile > tiles.now - window
    owner, tile, cells = tiles.owner, tiles.tile, tiles.cells
    if not inside.all():
        owner, tile, cells = owner[inside], tile[inside], cells[inside]
    starts = group_starts(owner)
    states, falls = store.layout.initial(tiles.size), np.full(tiles.size, NEVER, np.int64)
    states[owner[starts]] = store.layout.reduce(cells, starts)
    falls[owner[starts]] = (tile[starts] + window) * store.slide_us
    return Totals(states, falls)


def decayed(tiles: Tiles, store: TileStore, part: Component, window: int, half_life_us: int) -> Floats:
    """Counts weighted by 2 ^ -(age / half-life), age in whole slides between the tile and the clock's."""
    inside = tiles.tile > tiles.now - window
    age_us = (tiles.now - tiles.tile) * store.slide_us
    weights = np.where(inside, np.exp2(-age_us / half_life_us), 0) * tiles.cells[:, store.layout.place[part]]
    sums: Floats = np.bincount(tiles.owner, weights, minlength=tiles.size).astype(np.float64)
    return sums


def save_tiles(store: TileStore, slots: Ints) -> dict[str, NDArray[Any]]:
    """Arrays of a store, keys numbered anew in the order of `slots`."""
    out = store.rows.save(slots)
    for number, part in enumerate(store.layout.parts):
        if part in store.seen:
            out |= {f"seen{number}.{name}": column for name, column in store.seen[part].save().items()}
    return out


def load_tiles(store: TileStore, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put back what `save_tiles` gave."""
    store.rows.load({name: column for name, column in arrays.items() if "." not in name})
    for number, part in enumerate(store.layout.parts):
        if part in store.seen:
            prefix = f"seen{number}."
            store.seen[part].load({n[len(prefix) :]: column for n, column in arrays.items() if n.startswith(prefix)})
