"""What the publisher tells the trainer of an arm: control.json (docs/contracts.md)."""

import json
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import CorruptState


@dataclass(frozen=True)
class Control:
    """Where an arm stands. Without a file: the first lineage, into slot a."""

    lineage: int = 1
    epoch: int = 1
    slot: str = "a"
    from_checkpoint: str = ""
    freeze_learning: bool = False
    accepted: tuple[str, ...] = ()
    """Releases that may serve, oldest first: the last one is the champion."""
    refused: tuple[str, ...] = ()

    @property
    def champion(self) -> str:
        """The release to be better than; empty = none yet."""
        return self.accepted[-1] if self.accepted else ""


def read(path: Path) -> Control:
    """Read control.json. Raises CorruptState when it is not what it should be."""
    try:
        data = json.loads(path.read_text())
        return Control(
            lineage=int(data["lineage"]),
            epoch=int(data["epoch"]),
            slot=str(data["slot"]),
            from_checkpoint=str(data.get("from_checkpoint") or ""),
            freeze_learning=bool(data.get("freeze_learning", False)),
            accepted=tuple(data.get("accepted", ())),
            refused=tuple(data.get("refused", ())),
        )
    except FileNotFoundError:
        return Control()
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"control.json: {type(error).__name__}: {error}") from error
