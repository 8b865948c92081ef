"""Vectors of texts, or of what the shop gives, as requests use them: the nearest items, from an index on disk and from
what came since.

The item table's process writes the index (`vector_index.py`); every worker maps the same file. What has changed since
it was written is compared one by one, so a vector is found as soon as it lies in the table.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from services.common.errors import CorruptState
from services.gateway.table import ItemTable

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Stamps = NDArray[np.uint32]

DEPTH, LEAST_DEPTH = 4, 512
"""An index is asked for so many times the wanted, and for so many at least: it keeps a byte per number, and what it
returns is compared again with more."""


@dataclass(frozen=True)
class Written:
    """An index on disk: vectors of the items as they were when their stamps were these."""

    index: Index
    stamps: Stamps


@dataclass(frozen=True)
class _Seen:
    """One moment: what is in the index, and what is not or differs from it."""

    written: Written | None
    stamps: Stamps
    changed: NDArray[np.bool_]
    slots: Ints
    """Of the vectors below."""
    fresh: Floats
    """[n, dim] of items that have changed since the index was written."""


class TextVectors:
    """Vectors of one encoder, or of one name that the shop gives: those of one slot and epoch.

    `renew` runs in a thread beside the others.
    """

    def __init__(self, folder: Path, slot: str, epoch: int) -> None:
        self.folder, self.slot, self.epoch = folder, slot, epoch
        self._seen: _Seen | None = None
        self._file = ""

    @property
    def ready(self) -> bool:
        """Whether it has been read once."""
        return self._seen is not None

    def renew(self, table: ItemTable) -> bool:
        """Look for what has moved; True when there was something. `table`: the calling thread's own."""
        before = self._seen
        table.refresh()
        written = self._latest(before.written if before else None)
        stamps = table.stamps(f"row:{self.slot}", table.count)
        same = before is not None and written is before.written and len(stamps) == len(before.stamps)
        if same and before is not None and (stamps == before.stamps).all():
            return False
        known = _as_long_as(written.stamps if written else np.zeros(0, np.uint32), len(stamps))
        changed = stamps != known
        slots = np.flatnonzero(changed)
        vectors, present = table.vectors(self.slot, slots, self.epoch)
        self._seen = _Seen(written, stamps, changed, slots[present], np.ascontiguousarray(vectors[present]))
        return True

    def nearest(self, table: ItemTable, vector: Floats, count: int) -> tuple[Ints, Floats]:
        """Slots of the items whose texts are nearest, with their cosines, best first."""
        seen = self._seen
        if seen is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        slots, cosines = seen.slots, seen.fresh @ vector if len(seen.slots) else np.zeros(0, np.float32)
        if seen.written is not None:
            found = seen.written.index.search(vector, max(DEPTH * count, LEAST_DEPTH)).keys
            keys = np.asarray(found).astype(np.int64)
            keys = keys[~seen.changed[keys]]
            more = self.cosines(table, vector, keys)
            keys, more = keys[~np.isnan(more)], more[~np.isnan(more)]
            slots, cosines = np.concatenate([slots, keys]), np.concatenate([cosines, more])
        best = np.argsort(-cosines, kind="stable")[:count]
        return slots[best], cosines[best]

    def cosines(self, table: ItemTable, vector: Floats, slots: Ints) -> Floats:
        """Of some items [n]; NaN where an item has no vector."""
        values, present = table.vectors(self.slot, slots, self.epoch)
        if values.shape[1] != len(vector):
            return np.full(len(slots), np.nan, np.float32)
        return np.where(present, values @ vector, np.float32(np.nan))

    def _latest(self, before: Written | None) -> Written | None:
        """The newest index of this epoch; the one of before while there is no other."""
        found = pointer(self.folder, self.slot)
        if found is None or found.epoch != self.epoch or found.file == self._file:
            return before
        try:
            written = found.open(self.folder)
        except CorruptState:  # just being replaced: the next look finds the one after it
            return before
        self._file = found.file
        return written


class AlikeByVectors:
    """Items whose vectors are near, for Similar."""

    def __init__(self, vectors: Callable[[], TextVectors | None], table: ItemTable) -> None:
        """`vectors`: those in force now."""
        self._vectors, self._table = vectors, table

    def like(self, slot: int, count: int) -> tuple[Ints, Floats]:
        """Slots of the items whose vectors are nearest to an item's, with cosines; none where it has no vector."""
        vectors, vector = self._vectors(), self._of(slot)
        if vectors is None or vector is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return vectors.nearest(self._table, vector, count)

    def cosines(self, slot: int, slots: Ints) -> Floats:
        """Cosines of some items' vectors with an item's; NaN where one has no vector."""
        vectors, vector = self._vectors(), self._of(slot)
        if vectors is None or vector is None:
            return np.full(len(slots), np.nan, np.float32)
        return vectors.cosines(self._table, vector, slots)

    def _of(self, slot: int) -> Floats | None:
        vectors = self._vectors()
        if vectors is None:
            return None
        values, present = self._table.vectors(vectors.slot, np.array([slot]), vectors.epoch)
        return values[0] if present[0] else None


@dataclass(frozen=True)
class Pointer:
    """`<slot>.json`: which file is the newest."""

    epoch: int
    file: str

    def open(self, folder: Path, view: bool = True) -> Written:
        """Read it; `view`: the vectors stay on disk. Raises CorruptState."""
        try:
            index = Index.restore(str(folder / self.file), view=view)
            stamps = np.load(folder / f"{self.file}.stamps.npy")
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            raise CorruptState(f"{self.file}: {error}") from error
        if index is None:
            raise CorruptState(f"{self.file} is no index")
        return Written(index, stamps)


def pointer(folder: Path, slot: str) -> Pointer | None:
    """What the folder says of a slot; None: nothing."""
    try:
        return Pointer(**json.loads((folder / f"{slot}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _as_long_as(stamps: Stamps, count: int) -> Stamps:
    out = np.zeros(count, np.uint32)
    known = min(count, len(stamps))
    out[:known] = stamps[:known]
    return out
