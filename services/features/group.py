"""A group of features of one view that were added together: their stores, from rows to values.

Features that exist from the start are one group; a feature added later gets a group of its own, empty at the position
where it was added, and is null until what lies below that position has been folded and merged into it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.definitions import FeatureDefinition
from services.common.filters import COLUMNS
from services.features import values
from services.features.aggregates import Component, Ints, contribution
from services.features.interner import Interner
from services.features.plan import Program, RecentKey, TopKey, stored_type
from services.features.ragged import Ragged
from services.features.recent import Recent, RecentStore
from services.features.rows import Rows
from services.features.top import Counted, TopStore, falls_us, top
from services.features.windows import NEVER, Tiles, TileStore, Totals, decayed, load_tiles, save_tiles, totals
from services.online.encode import Column

Mask = NDArray[np.bool_]


class Picked:
    """The rows of a batch that concern one view, and whose they are."""

    def __init__(self, rows: Rows, at: Ints, slots: Ints, owner: Ints, serial: Ints) -> None:
        """`slots`: keys in question, those of the rows first; `owner`: [rows] place in `slots`."""
        self.rows, self.at, self.slots, self.owner, self.serial = rows, at, slots, owner, serial

    def mask(self, tests: tuple[str, ...], column: str) -> Mask:
        """Rows that pass the tests and have a value in the column."""
        return self.rows.passing(tests, column)[self.at]


@dataclass(frozen=True)
class Joined:
    """Keys of another state in ours."""

    theirs: Ints
    """[n] their slots."""
    ours: Ints
    """[n] our slots."""
    serial: Ints
    """[n] our serial numbers."""
    place: Ints
    """Place in these arrays by their serial number; -1 where there is none."""


class Group:
    """Stores of a compiled program. `ready`: False while values below `fill_below` are missing."""

    def __init__(self, program: Program, interner: Interner, fill_below: int = 0) -> None:
        self.program, self._interner = program, interner
        self.definitions = list(program.definitions)
        """Those whose values are wanted; the stores were made for all of the program."""
        self.ready, self.fill_below = fill_below == 0, fill_below
        self.tiles = {slide: TileStore(slide, count, layout) for slide, (layout, count) in program.tiles.items()}
        self.recents = {
            key: RecentStore(key.slide_us, key.tiles, key.n, [(name, stored_type(name)) for name in columns])
            for key, columns in program.recents.items()
        }
        self.tops = {key: TopStore(key.slide_us, count) for key, count in program.tops.items()}

    def empty(self, interner: Interner) -> "Group":
        """One with the same stores and nothing in them."""
        made = Group(self.program, interner, self.fill_below)
        made.definitions, made.ready = list(self.definitions), self.ready
        return made

    def wanted(self, rows: Rows) -> Mask:
        """Rows that change anything here."""
        masks = [rows.passing(p.tests, p.column) for store in self.tiles.values() for p in store.layout.parts]
        masks += [_recent_mask(rows, key) for key in self.recents]
        masks += [rows.passing((key.where,), key.column) for key in self.tops]
        return np.logical_or.reduce(masks) if masks else np.zeros(rows.length, np.bool_)

    def update(self, picked: Picked, clock_us: int, publish: bool) -> tuple[dict[int, Column], Ints]:
        """Fold rows in; returns the columns of each definition by id (none unless `publish`), and per key when a
        value changes next without an event."""
        held = {slide: _update_tiles(store, picked, clock_us) for slide, store in self.tiles.items()}
        recent = {key: self._update_recent(key, store, picked, clock_us) for key, store in self.recents.items()}
        counted = {key: self._update_top(key, store, picked, clock_us) for key, store in self.tops.items()}
        falls = np.full(len(picked.slots), NEVER, np.int64)
        if not publish:
            return {}, falls
        windows: dict[tuple[int, int], Totals] = {}
        columns: dict[int, Column] = {}
        for definition in self.definitions:
            column, fall = self._value(definition, held, recent, counted, windows)
            columns[definition.id] = column if self.ready else Column([None] * len(picked.slots))
            np.minimum(falls, fall, out=falls)
        return columns, falls

    def _value(
        self,
        definition: FeatureDefinition,
        held: Mapping[int, Tiles],
        recent: Mapping[RecentKey, Recent],
        counted: Mapping[TopKey, Counted],
        windows: dict[tuple[int, int], Totals],
    ) -> tuple[Column, Ints]:
        if definition.function in ("last", "last_n"):
            found = recent[self.program.recent_of[definition.id]]
            return values.recent_column(definition, found, self._meaning(definition.column)), found.falls_us
        if definition.function == "top_k":
            key = TopKey(definition.column, definition.where, definition.slide_us)
            lists = top(counted[key], definition.tiles, definition.n, self._meaning(definition.column))
            return values.top_column(definition, lists), falls_us(counted[key], self.tops[key], definition.tiles)
        store, tiles, parts = (
            self.tiles[definition.slide_us],
            held[definition.slide_us],
            self.program.parts[definition.id],
        )
        window = windows.get((definition.slide_us, definition.tiles))
        if window is None:
            window = windows[definition.slide_us, definition.tiles] = totals(tiles, store, definition.tiles)
        if definition.function == "decay":
            weighted = decayed(tiles, store, parts[0], definition.tiles, definition.half_life_us)
            fades = np.where(weighted > 0, (tiles.now + 1) * store.slide_us, NEVER)
            return values.number_column(definition, weighted), fades
        numbers = values.from_totals(definition, parts, store.layout, window)
        return values.number_column(definition, numbers), window.falls_us

    def _meaning(self, column: str) -> values.Meaning:
        return self._interner.text if COLUMNS[column] == "text" else lambda codes: codes.tolist()

    def _stored(self, picked: Picked, column: str, chosen: Ints) -> NDArray[Any]:
        at = picked.at[chosen]
        if COLUMNS[column] != "text":
            return picked.rows.number(column)[0][at].astype(stored_type(column))
        codes, words = picked.rows.text(column)
        used, place = np.unique(codes[at], return_inverse=True)
        known = self._interner.codes([words[code] if code >= 0 else "" for code in used.tolist()])
        return known[place]

    def _update_recent(self, key: RecentKey, store: RecentStore, picked: Picked, clock_us: int) -> Recent:
        chosen = np.flatnonzero(_recent_mask(picked.rows, key)[picked.at])
        at = picked.at[chosen]
        marks = {name: getattr(picked.rows, name)[at] for name in ("time_us", "high", "low")}
        fresh = {f"v.{column}": self._stored(picked, column, chosen) for column in self.program.recents[key]}
        return store.update(picked.slots, picked.owner[chosen], {**marks, **fresh}, clock_us)

    def _update_top(self, key: TopKey, store: TopStore, picked: Picked, clock_us: int) -> Counted:
        chosen = np.flatnonzero(picked.mask((key.where,), key.column))
        fresh = {
            "value": self._stored(picked, key.column, chosen),
            "time_us": picked.rows.time_us[picked.at[chosen]],
            "count": np.ones(len(chosen), np.int64),
        }
        return store.update(picked.slots, picked.owner[chosen], fresh, clock_us)

    def rows_of(self, slots: Ints) -> Ints:
        """How many rows of state each key has, shape [slots]."""
        rows: list[Ragged] = [store.rows for store in self.tiles.values()]
        rows += [store.rows for store in self.recents.values()]
        rows += [store.rows for store in self.tops.values()]
        held: Ints = np.sum([store.counts(slots) for store in rows], axis=0, dtype=np.int64)
        return held

    def sweep(self, clock_us: int) -> None:
        """Let go of what no window holds."""
        for store in self.tiles.values():
            store.sweep(clock_us)

    def forget(self, slots: Ints, serial: Ints, before_us: int) -> None:
        """Drop what these keys hold from before a time (tiles that began before it go whole)."""
        for store in self.tiles.values():
            store.forget(slots, serial, before_us)
        for recent in self.recents.values():
            recent.forget(slots, before_us)
        for counted in self.tops.values():
            counted.forget(slots, before_us)

    def merge(self, other: "Group", joined: "Joined", clock_us: int) -> None:
        """Add the state of another group of the same program."""
        for slide, store in self.tiles.items():
            _merge_tiles(store, other.tiles[slide], joined, clock_us)
        for key, recent in self.recents.items():
            owner, columns = other.recents[key].rows.gather(joined.theirs)
            words = {f"v.{name}" for name in self.program.recents[key] if COLUMNS[name] == "text"}
            recent.update(joined.ours, owner, self._translated(other, columns, words), clock_us)
        for top_key, counted in self.tops.items():
            owner, columns = other.tops[top_key].rows.gather(joined.theirs)
            words = {"value"} if COLUMNS[top_key.column] == "text" else set()
            fresh = self._translated(other, columns, words)
            fresh["time_us"] = fresh.pop("tile") * counted.slide_us
            counted.update(joined.ours, owner, fresh, clock_us)

    def precede(self, slots: Ints) -> None:
        """Let what these keys hold come before all that follows, whatever its place in the log."""
        for recent in self.recents.values():
            recent.precede(slots)

    def _translated(self, other: "Group", columns: dict[str, NDArray[Any]], words: set[str]) -> dict[str, NDArray[Any]]:
        """The other group's words in our numbers."""
        for name in words:
            columns[name] = self._interner.codes(other._interner.text(columns[name]))
        return columns

    def remap(self, codes: Ints) -> None:
        """Renumber words after the interner was cleaned."""
        for key, store in self.recents.items():
            for column in self.program.recents[key]:
                if COLUMNS[column] == "text":
                    store.rows.translate(f"v.{column}", codes)
        for top_key, counted in self.tops.items():
            if COLUMNS[top_key.column] == "text":
                counted.rows.translate("value", codes)

    def words_used(self, slots: Ints) -> list[Ints]:
        """Numbers of words that the state of these keys holds."""
        found = []
        for key, store in self.recents.items():
            _, columns = store.rows.gather(slots)
            found += [columns[f"v.{c}"] for c in self.program.recents[key] if COLUMNS[c] == "text"]
        for top_key, counted in self.tops.items():
            if COLUMNS[top_key.column] == "text":
                found.append(counted.rows.gather(slots)[1]["value"])
        return found

    def save(self, slots: Ints) -> dict[str, NDArray[Any]]:
        """Arrays of all stores, keys numbered anew in the order of `slots`."""
        saved = {f"tile{n}": save_tiles(store, slots) for n, store in enumerate(self.tiles.values())}
        saved |= {f"recent{n}": store.rows.save(slots) for n, store in enumerate(self.recents.values())}
        saved |= {f"top{n}": store.rows.save(slots) for n, store in enumerate(self.tops.values())}
        return {f"{store}/{name}": array for store, arrays in saved.items() for name, array in arrays.items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put back what `save` gave."""
        for number, store in enumerate(self.tiles.values()):
            load_tiles(store, _under(arrays, f"tile{number}/"))
        for number, recent in enumerate(self.recents.values()):
            recent.rows.load(_under(arrays, f"recent{number}/"))
        for number, counted in enumerate(self.tops.values()):
            counted.rows.load(_under(arrays, f"top{number}/"))


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


def _recent_mask(rows: Rows, key: RecentKey) -> Mask:
    mask = rows.mask((key.where,))
    for column in key.guard:
        mask = mask & rows.valid(column)
    return mask


def _update_tiles(store: TileStore, picked: Picked, clock_us: int) -> Tiles:
    layout = store.layout
    masks = {part: picked.mask(part.tests, part.column) for part in layout.parts}
    plain = [part for part in layout.parts if part not in store.seen]
    none = np.zeros(len(picked.at), np.bool_)
    chosen = np.flatnonzero(np.logical_or.reduce([masks[part] for part in plain]) if plain else none)
    owner, time_us = [picked.owner[chosen]], [picked.rows.time_us[picked.at[chosen]]]
    cells = [layout.initial(len(chosen))]
    for part in plain:
        at = layout.place[part]
        cells[0][:, at : at + part.width] = contribution(part, *_chosen(picked, part, masks[part], chosen))
    for part in store.seen:
        sighted = np.flatnonzero(masks[part])
        changes = store.sightings(part, *_sightings(picked, part, sighted))
        owner.append(picked.owner[sighted][changes.rows])
        time_us.append(changes.time_us)
        cells.append(changes.cells)
    return store.update(picked.slots, np.concatenate(owner), np.concatenate(time_us), np.concatenate(cells), clock_us)


def _chosen(picked: Picked, part: Component, mask: Mask, chosen: Ints) -> tuple[NDArray[Any], Mask]:
    if part.kind == "count":
        return mask[chosen], mask[chosen]
    return picked.rows.number(part.column)[0][picked.at[chosen]], mask[chosen]


def _sightings(picked: Picked, part: Component, rows: Ints) -> tuple[Ints, NDArray[np.uint64], Ints]:
    at = picked.at[rows]
    return picked.serial[picked.owner[rows]], picked.rows.hashes(part.column)[at], picked.rows.time_us[at]


def _merge_tiles(store: TileStore, other: TileStore, joined: Joined, clock_us: int) -> None:
    owner, columns = other.rows.gather(joined.theirs)
    owners, times, states = [owner], [columns["tile"] * store.slide_us], [columns["cells"]]
    for part, seen in other.seen.items():
        states[0][:, store.layout.place[part]] = 0  # counted anew: a value may be known here already
        saved = seen.save()
        place = joined.place[saved["serial"]]
        known = place >= 0
        place, tile = place[known], saved["tile"][known]
        changes = store.sightings(part, joined.serial[place], saved["value"][known], tile * store.slide_us)
        owners.append(place[changes.rows])
        times.append(changes.time_us)
        states.append(changes.cells)
    store.update(joined.ours, np.concatenate(owners), np.concatenate(times), np.concatenate(states), clock_us)
