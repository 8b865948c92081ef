"""Row deltas: what the publisher pushes to the store, one file each (docs/contracts.md)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.tensors import save
from services.trainer.files import remove_staging, write_file
from services.trainer.hooks import Hooks

Floats = NDArray[np.float32]

MOST_ROWS = 50_000
"""Rows of one kind in a file: a reader never has to hold a whole table of a filled slot at once."""


@dataclass(frozen=True)
class DeltaInfo:
    """What a delta says about itself."""

    epoch: int
    learned_up_to_us: int
    positions: Mapping[int, int]
    champion_log_loss: float
    champion_rows: int


class DeltaFiles:
    """Writes deltas into a folder."""

    def __init__(self, folder: Path, hooks: Hooks) -> None:
        self._folder, self._hooks = folder, hooks
        folder.mkdir(parents=True, exist_ok=True)
        remove_staging(folder)

    def newest(self, epoch: int) -> int:
        """Highest sequence of an epoch that lies here; 0 = none."""
        names = [path.stem for path in self._folder.glob(f"{epoch:08d}-*.safetensors")]
        return max((int(name.split("-")[1]) for name in names), default=0)

    def parts(self, items: tuple[Sequence[str], Floats], users: tuple[Sequence[str], Floats]) -> int:
        """Files it takes."""
        return max(1, -(-max(len(items[0]), len(users[0])) // MOST_ROWS))

    def write(
        self,
        seq: int,
        info: DeltaInfo,
        items: tuple[Sequence[str], Floats],
        users: tuple[Sequence[str], Floats],
        seen: NDArray[np.uint8] | None = None,
    ) -> int:
        """Write changed rows, in as many files as it takes; returns the last sequence used (`seq` is the first).

        `seen` [items]: how often each item was seen; None = it is not said.
        """
        parts = self.parts(items, users)
        for k in range(parts):
            part = slice(k * MOST_ROWS, (k + 1) * MOST_ROWS)
            counts = {} if seen is None else {"item_seen": seen[part]}
            self._write(seq + k, info if k == 0 else _unscored(info), items, users, part, counts)
        return seq + parts - 1

    def _write(
        self,
        seq: int,
        info: DeltaInfo,
        items: tuple[Sequence[str], Floats],
        users: tuple[Sequence[str], Floats],
        part: slice,
        counts: Mapping[str, NDArray[np.uint8]],
    ) -> None:
        meta = {
            "item_ids": json.dumps(items[0][part]),
            "user_ids": json.dumps(users[0][part]),
            "epoch": str(info.epoch),
            "seq": str(seq),
            "learned_up_to_us": str(info.learned_up_to_us),
            "positions": json.dumps({str(p): offset for p, offset in info.positions.items()}),
            "champion_log_loss": str(info.champion_log_loss),
            "champion_rows": str(info.champion_rows),
        }
        tensors: dict[str, NDArray[Any]] = {"item_rows": items[1][part], "user_rows": users[1][part], **counts}
        name = f"{info.epoch:08d}-{seq:012d}.safetensors"
        write_file(self._folder / name, save(tensors, meta), self._hooks, "delta")


def _unscored(info: DeltaInfo) -> DeltaInfo:
    return DeltaInfo(info.epoch, info.learned_up_to_us, info.positions, float("nan"), 0)
