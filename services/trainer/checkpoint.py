"""Checkpoints: everything a trainer is, on disk, whole or not there (design: trainer).

A checkpoint is a folder `<lineage>-<seq>`: dense weights and the optimiser's memory, waiting scores, and rows. Of a
large table it holds the rows changed since the checkpoint before, and one stripe of sixteen of all the others, so
that sixteen checkpoints hold every row and none has to write the whole table. `needs` names those before it.
Every file has its hash in `state.json`, which is written last and has its own.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from services.common.errors import CorruptState
from services.common.tensors import save
from services.trainer.files import remove_staging, write_folder
from services.trainer.hooks import Hooks
from services.trainer.learner import Arrays, Learner
from services.trainer.tables import RowTable

log = logging.getLogger(__name__)

VERSION = 1
STRIPES = 16
WHOLE = 200_000
"""Slots up to which every checkpoint holds the whole table."""

_STATE = "state.json"
_NAME = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, order=True)
class Name:
    """A checkpoint's place: lineages follow each other, and sequences within one."""

    lineage: int
    seq: int

    def __str__(self) -> str:
        return f"{self.lineage}-{self.seq}"

    @staticmethod
    def parse(text: str) -> "Name | None":
        """The place that a folder's name says; None for another folder."""
        found = _NAME.fullmatch(text)
        return Name(int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back and found whole."""

    name: Name
    meta: dict[str, Any]
    files: dict[str, Arrays]
    rows: list[Arrays]
    """Of the chain, the oldest first."""


class Checkpoints:
    """The checkpoints of an arm."""

    def __init__(self, folder: Path, hooks: Hooks, keep: int = 3, whole: int = WHOLE) -> None:
        self._whole = whole
        self.folder, self._hooks, self._keep = folder, hooks, keep
        folder.mkdir(parents=True, exist_ok=True)
        remove_staging(folder)

    def names(self) -> list[Name]:
        """All that lie here, in order, whole or not."""
        found = (Name.parse(path.name) for path in self.folder.iterdir())
        return sorted(name for name in found if name is not None)

    def path(self, name: Name) -> Path:
        """Folder of a checkpoint."""
        return self.folder / str(name)

    def save(self, name: Name, learner: Learner, needs: list[Name], extra: dict[str, Any]) -> list[Name]:
        """Write a checkpoint on top of `needs` (those it may build on, the oldest first); returns what it does need."""
        whole = max(learner.tables.item.next, learner.tables.user.next) <= self._whole or not needs
        needs = [] if whole else needs[-(STRIPES - 1) :]
        meta, files = learner.snapshot()
        files["rows"] = learner.pack_rows(lambda table: _slots(table, None if whole else name.seq % STRIPES))
        meta |= extra | {"version": VERSION, "name": str(name), "needs": [str(n) for n in needs]}

        def fill(folder: Path) -> None:
            hashes = {}
            for part, arrays in files.items():
                data = save(arrays)
                hashes[f"{part}.safetensors"] = digest_of(data)
                (folder / f"{part}.safetensors").write_bytes(data)
            body = json.dumps(meta | {"files": hashes})
            (folder / _STATE).write_text(json.dumps({"sha256": digest_of(body.encode()), "body": body}))

        write_folder(self.path(name), fill, self._hooks, "checkpoint")
        return needs

    def load(self, name: Name) -> Saved:
        """Read a checkpoint and what it needs. Raises CorruptState when any of it is missing or damaged."""
        meta = self._meta(name)
        if meta["version"] != VERSION:
            raise CorruptState(f"checkpoint {name}: version {meta['version']}, this trainer reads {VERSION}")
        files = {part: self._arrays(name, meta, part) for part in ("dense", "progress")}
        chain = [_named(text) for text in meta["needs"]]
        rows = [self._arrays(older, self._meta(older), "rows") for older in chain]
        return Saved(name, meta, files, [*rows, self._arrays(name, meta, "rows")])

    def newest(self) -> Saved | None:
        """The newest whole checkpoint; None when there is none at all. Raises CorruptState when none is whole."""
        names = self.names()
        for name in reversed(names):
            try:
                return self.load(name)
            except CorruptState as error:
                log.warning("checkpoint passed over", extra={"checkpoint": str(name), "error": str(error)})
        if names:
            raise CorruptState(f"none of the {len(names)} checkpoints in {self.folder.name} is whole")
        return None

    def journals(self, name: Name) -> list[Path]:
        """Folders whose journals tell what came after a checkpoint, its own first: those of the same lineage."""
        return [self.path(n) for n in self.names() if n.lineage == name.lineage and n >= name]

    def prune(self, protected: Iterable[str]) -> None:
        """Take away all but the newest few, the protected ones, and what they need."""
        names = self.names()
        keep = set(names[-self._keep :]) | {name for name in map(Name.parse, protected) if name is not None}
        for name in list(keep):
            try:
                keep |= {_named(text) for text in self._meta(name)["needs"]}
            except CorruptState:
                continue
        for name in names:
            if name not in keep:
                shutil.rmtree(self.path(name))

    def _meta(self, name: Name) -> dict[str, Any]:
        try:
            outer = json.loads((self.path(name) / _STATE).read_text())
            if digest_of(outer["body"].encode()) != outer["sha256"]:
                raise CorruptState(f"checkpoint {name}: {_STATE} does not match its hash")
            meta: dict[str, Any] = json.loads(outer["body"])
            return meta
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptState(f"checkpoint {name}: {type(error).__name__}: {error}") from error

    def _arrays(self, name: Name, meta: dict[str, Any], part: str) -> Arrays:
        file = f"{part}.safetensors"
        try:
            data = (self.path(name) / file).read_bytes()
            if digest_of(data) != meta["files"][file]:
                raise CorruptState(f"checkpoint {name}: {file} does not match its hash")
            arrays: Arrays = load(data)
            return arrays
        except (OSError, KeyError, SafetensorError) as error:
            raise CorruptState(f"checkpoint {name}: {file}: {error}") from error


def _slots(table: RowTable, stripe: int | None) -> NDArray[np.int64]:
    """Slots to write: all of them, or the changed ones and one stripe."""
    changed = table.unsaved()
    if stripe is None:
        return np.arange(table.next)
    # Every sixteenth slot: unlike ranges, which move as the table grows, this leaves none out over a round.
    return np.union1d(changed, np.arange(stripe, table.next, STRIPES))


def _named(text: str) -> Name:
    name = Name.parse(text)
    if name is None:
        raise CorruptState(f"{text!r} is not the name of a checkpoint")
    return name


def digest_of(data: bytes) -> str:
    """SHA-256, as hex."""
    return hashlib.sha256(data).hexdigest()
