"""Rows as they were: a base on disk and the deltas after it, so that a slot can be rebuilt as of any kept release.

A base holds every row at one sequence; the trainer's delta files are the rest. It is moved forward only up to the
oldest release that can still be gone back to, and a delta is deleted only when a base holds it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from services.common.errors import CorruptState, NotFound
from services.common.tensors import save
from services.publisher import deltas
from services.publisher.deltas import DeltaName
from services.publisher.files import Disk
from services.publisher.table import Rows, SlotTables


class RowHistory:
    """`bases`: the publisher's own folder; `deltas`: the trainer's."""

    def __init__(self, bases: Path, folder: Path, dim: int, disk: Disk | None = None) -> None:
        self._bases, self._deltas, self._dim = bases, folder, dim
        self._disk = disk or Disk()

    def restore(self, epoch: int, seq: int) -> SlotTables:
        """Rows as of a sequence of an epoch. Raises NotFound when its base is gone, CorruptState for a bad file."""
        tables = SlotTables(self._dim)
        bases = [name for name in deltas.listed(self._bases) if name.epoch == epoch]
        usable = [name for name in bases if name.seq <= seq]
        if bases and not usable:
            raise NotFound(f"rows of epoch {epoch} as of {seq}: the oldest kept are of {bases[0].seq}")
        start = usable[-1].seq if usable else 0
        if usable:
            _fill(self._bases / str(usable[-1]), tables)
        for name in deltas.waiting(self._deltas, DeltaName(epoch, start)):
            if name.seq <= seq:
                delta = deltas.read(self._deltas, name)
                tables.item.apply(delta.items)
                tables.user.apply(delta.users)
        return tables

    def seq_of(self, epoch: int, positions: Mapping[str, int]) -> int:
        """The last delta of an epoch that was learned from nothing beyond these positions of topic examples.

        It is what the rows were when a release of these positions was made.
        """
        for name in reversed(deltas.waiting(self._deltas, DeltaName(epoch, 0))):
            try:
                learned = deltas.positions_of(self._deltas, name)
            except CorruptState:  # just folded into a base, or a file that the row gate will stop at
                break
            if all(offset <= positions.get(partition, 0) for partition, offset in learned.items()):
                return name.seq
        return max((name.seq for name in deltas.listed(self._bases) if name.epoch == epoch), default=0)

    def save(self, epoch: int, seq: int, tables: SlotTables) -> None:
        """Write a base, whole or not at all."""
        tensors: dict[str, NDArray[Any]] = {}
        ids: dict[str, str] = {}
        for kind, table in (("item", tables.item), ("user", tables.user)):
            rows = table.all()
            tensors |= {f"{kind}_rows": rows.rows, f"{kind}_seqs": rows.seqs, f"{kind}_times": rows.times_us}
            tensors |= {} if rows.seen is None else {f"{kind}_seen": rows.seen}
            ids[f"{kind}_ids"] = json.dumps(rows.ids)
        self._disk.replace(self._bases / str(DeltaName(epoch, seq)), save(tensors, ids))

    def fold(self, epoch: int, seq: int) -> int:
        """Move the epoch's base forward to `seq` and delete what it holds; returns the deltas deleted."""
        held = [name for name in deltas.listed(self._deltas) if name.epoch == epoch and name.seq <= seq]
        if not held:
            return 0
        self.save(epoch, seq, self.restore(epoch, seq))
        for name in deltas.listed(self._bases):
            if name.epoch == epoch and name.seq < seq:
                (self._bases / str(name)).unlink()
        for name in held:
            (self._deltas / str(name)).unlink(missing_ok=True)
        return len(held)

    def count(self, epoch: int, seq: int) -> int:
        """Deltas of an epoch up to `seq` that no base holds yet."""
        return sum(name.epoch == epoch and name.seq <= seq for name in deltas.listed(self._deltas))

    def forget(self, keep: set[int]) -> None:
        """Delete everything of other epochs below the newest of these; nobody can go back there."""
        for folder in (self._bases, self._deltas):
            for name in deltas.listed(folder):
                if name.epoch not in keep and name.epoch < max(keep):
                    (folder / str(name)).unlink(missing_ok=True)


def _fill(path: Path, tables: SlotTables) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            for kind, table in (("item", tables.item), ("user", tables.user)):
                values = [file.get_tensor(f"{kind}_{part}") for part in ("rows", "seqs", "times")]
                ids = tuple(json.loads(meta[f"{kind}_ids"]))
                seen = file.get_tensor(f"{kind}_seen") if f"{kind}_seen" in file.keys() else None  # noqa: SIM118
                rows = Rows(ids, values[0], values[1].astype(np.uint64), values[2].astype(np.int64), seen)
                if values[0].shape != (len(ids), table.dim):
                    raise ValueError(f"{kind} rows {values[0].shape} for {len(ids)} ids of {table.dim}")
                if ids:
                    table.apply(rows)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"base {path.name}: {type(error).__name__}: {error}") from error
