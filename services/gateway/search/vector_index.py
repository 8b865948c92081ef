"""Writes indices of vectors for all workers of a machine, in a thread of the item table's process: those of texts, and
those that the shop gives.

It takes changed vectors in when there are enough of them, and writes the whole anew under another name; fewer are
compared one by one by those who ask. After a restart it goes on from the file.
"""

import json
import logging
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from services.common.errors import CorruptState, FreshrankError
from services.gateway.search.vectors import Stamps, pointer
from services.gateway.table import ItemTable

logger = logging.getLogger(__name__)

SLOTS = ("ta", "tb")
LEAST = 5_000
"""Changed vectors from which they are taken in: so many are compared in a millisecond."""
SHARE = 16
"""Or this part of those that are in the index, whichever is more."""
TOGETHER = 64
"""Vectors put in at a time: the table's writer, in the same process, waits for no more."""
LOOK_S = 0.5


@dataclass
class _Slot:
    """One slot's index as it is being written."""

    epoch: int
    index: Index
    stamps: Stamps


class VectorIndexer:
    """Owns the files of one folder; for one thread."""

    def __init__(self, folder: Path, table: Path, keep: bool, least: int = LEAST, slots: Sequence[str] = SLOTS) -> None:
        """`table`: the item table's folder. `keep` False begins anew: the table is another one. `slots`: of rows that
        are vectors.
        """
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._least, self._names = folder, least, tuple(slots)
        self._table = ItemTable(table)
        self._slots: dict[str, _Slot] = {}
        for slot in self._names:
            found = pointer(folder, slot)
            try:
                if found is not None:
                    written = found.open(folder, view=False)
                    self._slots[slot] = _Slot(found.epoch, written.index, written.stamps)
            except CorruptState as error:
                logger.warning("the index of vectors is made anew", extra={"slot": slot, "error": str(error)})

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop."""
        while not stop.wait(LOOK_S):
            for slot in self._names:
                try:
                    self.look(slot)
                except FreshrankError as error:
                    logger.warning("vectors cannot be read", extra={"slot": slot, "error": str(error)})

    def look(self, slot: str) -> bool:
        """Take in what has changed; True when there was enough of it and a new index lies on disk."""
        table, name = self._table, f"row:{slot}"
        table.refresh()
        stamps = table.stamps(name, table.count)
        known = self._slots.get(slot)
        moved = _moved(known.stamps if known else None, stamps)
        if len(moved) < self._enough(known):
            return False
        epoch = table.newest_epoch(slot, moved)
        if known is None or epoch > known.epoch:
            moved, known = np.flatnonzero(stamps), None
        else:
            epoch = known.epoch
        present = table.vectors(slot, moved, epoch)[1]
        if np.count_nonzero(present) < self._enough(known) and known is None:
            return False
        index = known.index if known else None
        for start in range(0, len(moved), TOGETHER):
            index = self._taken_in(index, slot, moved[start : start + TOGETHER], epoch)
        if index is None:
            return False
        self._slots[slot] = _Slot(epoch, index, stamps)
        self._write(slot, self._slots[slot])
        return True

    def _enough(self, known: _Slot | None) -> int:
        return max(self._least, len(known.index) // SHARE if known else 0)

    def _taken_in(self, index: Index | None, slot: str, slots: NDArray[np.int64], epoch: int) -> Index | None:
        vectors, present = self._table.vectors(slot, slots, epoch)
        if index is None:
            if not present.any():
                return None
            index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8", multi=False)
        keys = slots.astype(np.uint64)
        old = keys[np.asarray(index.contains(keys))]
        if len(old):
            index.remove(old)
        if present.any():
            index.add(keys[present], vectors[present], threads=1)
        return index

    def _write(self, slot: str, made: _Slot) -> None:
        before = pointer(self._folder, slot)
        number = int(before.file.rsplit("-", 1)[1]) + 1 if before else 0
        file = f"{slot}-{made.epoch}-{number}"
        made.index.save(str(self._folder / file))
        np.save(self._folder / f"{file}.stamps.npy", made.stamps)
        fresh = self._folder / f"{slot}.new"
        fresh.write_text(json.dumps({"epoch": made.epoch, "file": file}))
        fresh.replace(self._folder / f"{slot}.json")
        for path in self._folder.glob(f"{slot}-*"):  # who has it mapped keeps it
            if path.name not in (file, f"{file}.stamps.npy"):
                path.unlink(missing_ok=True)
        logger.info("index of vectors", extra={"slot": slot, "epoch": made.epoch, "items": len(made.index)})


def _moved(before: Stamps | None, now: Stamps) -> NDArray[np.int64]:
    moved = now > 0
    if before is not None:
        known = min(len(before), len(now))
        moved[:known] &= before[:known] != now[:known]
    return np.flatnonzero(moved)
