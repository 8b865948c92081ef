"""Row deltas: what the trainer has changed since its last one, a file each, read in order."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from services.common.errors import CorruptState
from services.publisher.table import Rows

_NAME = re.compile(r"(\d{8})-(\d{12})\.safetensors")


@dataclass(frozen=True, order=True)
class DeltaName:
    """Place of a delta: `<epoch:08d>-<seq:012d>.safetensors`."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch:08d}-{self.seq:012d}.safetensors"

    @staticmethod
    def parse(name: str) -> "DeltaName | None":
        """The place that a file name says, None for another file.

        >>> str(DeltaName.parse("00000001-000000000007.safetensors"))
        '00000001-000000000007.safetensors'
        """
        match = _NAME.fullmatch(name)
        return DeltaName(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Delta:
    """Changed rows of items and shoppers, and how the champion did on the rows before them."""

    name: DeltaName
    items: Rows
    users: Rows
    learned_up_to_us: int
    positions: dict[str, int]
    champion_log_loss: float
    """NaN when nothing was scored."""
    champion_rows: int


def waiting(folder: Path, after: DeltaName) -> list[DeltaName]:
    """Deltas of the same epoch beyond `after`, in order; files of other epochs are somebody else's.

    Names sort as their places do, so the thousands that a base does not hold yet are passed over as text.
    """
    last = str(after)
    names = (DeltaName.parse(name) for name in _entries(folder) if name > last)
    return sorted(name for name in names if name is not None and name.epoch == after.epoch)


def listed(folder: Path) -> list[DeltaName]:
    """Every delta in the folder, in order; an unfinished file has another name."""
    names = map(DeltaName.parse, _entries(folder))
    return sorted(name for name in names if name is not None)


def read(folder: Path, name: DeltaName) -> Delta:
    """Read one delta. Raises CorruptState when the file is not what its name and the contract say."""
    try:
        with safe_open(folder / str(name), framework="numpy") as file:
            return _delta(name, file, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(f"delta {name}: {type(error).__name__}: {error}") from error


def positions_of(folder: Path, name: DeltaName) -> dict[str, int]:
    """Next offsets of topic examples that a delta was learned up to. Raises CorruptState."""
    try:
        with safe_open(folder / str(name), framework="numpy") as file:
            return _positions(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptState(f"delta {name}: {type(error).__name__}: {error}") from error


def _positions(meta: dict[str, str]) -> dict[str, int]:
    return {str(k): int(v) for k, v in json.loads(meta["positions"]).items()}


def _delta(name: DeltaName, file: Any, meta: dict[str, str]) -> Delta:
    if (int(meta["epoch"]), int(meta["seq"])) != (name.epoch, name.seq):
        raise ValueError(f"holds epoch {meta['epoch']}, seq {meta['seq']}")
    time_us = int(meta["learned_up_to_us"])
    return Delta(
        name=name,
        items=_rows(file, "item", meta, name.seq, time_us),
        users=_rows(file, "user", meta, name.seq, time_us),
        learned_up_to_us=time_us,
        positions=_positions(meta),
        champion_log_loss=float(meta["champion_log_loss"]),
        champion_rows=int(meta["champion_rows"]),
    )


def _rows(file: Any, kind: str, meta: dict[str, str], seq: int, time_us: int) -> Rows:
    ids, rows = json.loads(meta[f"{kind}_ids"]), file.get_tensor(f"{kind}_rows")
    if rows.ndim != 2 or rows.dtype != np.float32 or len(rows) != len(ids):
        raise ValueError(f"{kind}_rows: {rows.dtype} {rows.shape} for {len(ids)} ids")
    if not all(isinstance(row_id, str) for row_id in ids):
        raise ValueError(f"{kind}_ids: an id is not text")
    seen = file.get_tensor(f"{kind}_seen") if f"{kind}_seen" in file.keys() else None  # noqa: SIM118
    if seen is not None and (seen.dtype != np.uint8 or seen.shape != (len(ids),)):
        raise ValueError(f"{kind}_seen: {seen.dtype} {seen.shape} for {len(ids)} ids")
    return Rows.of(ids, rows, seq, time_us, seen)


def _entries(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
