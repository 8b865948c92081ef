"""Checkpoints of the encoder that learns, and the slice that it is learning: whole or not there.

A checkpoint is a folder named by its number, of which none comes twice: `state.safetensors`, and `state.json` with
everything else and the hash of the first. A slice is written before the first step of it, with all that has been read
from the log until then; so what is learned after a restart is what was learned before, text by text.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from services.common.errors import CorruptState
from services.common.tensors import save
from services.trainer.files import remove_staging, write_file, write_folder
from services.trainer.hooks import Hooks

log = logging.getLogger(__name__)

VERSION = 1
_PROBLEMS = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back and found whole."""

    meta: dict[str, Any]
    state: dict[str, Tensor]


class TextCheckpoints:
    """Those of one encoder."""

    def __init__(self, folder: Path, hooks: Hooks, keep: int = 2) -> None:
        self._folder, self._hooks, self._keep = folder, hooks, keep
        folder.mkdir(parents=True, exist_ok=True)
        remove_staging(folder)

    def save(self, meta: Mapping[str, Any], state: Mapping[str, Tensor], keep: int | None = None) -> None:
        """Write one; only so many of the newest stay."""
        number = max(self._numbers(), default=0) + 1
        arrays = {name: value.detach().cpu().numpy() for name, value in state.items()}

        def fill(staging: Path) -> None:
            data = save(arrays)
            (staging / "state.safetensors").write_bytes(data)
            body = json.dumps({"version": VERSION, "sha256": hashlib.sha256(data).hexdigest(), "meta": meta})
            (staging / "state.json").write_text(_hashed(body))

        write_folder(self._folder / f"{number:012d}", fill, self._hooks, "text")
        for old in self._numbers()[: -(keep or self._keep)]:
            shutil.rmtree(self._folder / f"{old:012d}")

    def newest(self) -> Saved | None:
        """The newest whole one; None when there is none at all. Raises CorruptState when none is whole."""
        numbers = self._numbers()
        for number in reversed(numbers):
            try:
                return self._load(number)
            except CorruptState as error:
                log.warning("checkpoint passed over", extra={"checkpoint": number, "error": str(error)})
        if numbers:
            raise CorruptState(f"none of the {len(numbers)} checkpoints in {self._folder} is whole")
        return None

    def begin_slice(self, body: Mapping[str, Any]) -> None:
        """Put down what is going to be learned."""
        write_file(self._slice, _hashed(json.dumps(body)).encode(), self._hooks, "slice")

    def slice(self) -> dict[str, Any] | None:
        """What was being learned when the process ended; None: nothing, or it cannot be read."""
        try:
            found: dict[str, Any] = _body(self._slice)
            return found
        except FileNotFoundError:
            return None
        except _PROBLEMS as error:
            log.warning("slice passed over: it is read from the log again", extra={"error": str(error)})
            return None

    def end_slice(self) -> None:
        """It is learned, and a checkpoint says so."""
        self._slice.unlink(missing_ok=True)

    @property
    def _slice(self) -> Path:
        return self._folder / "slice.json"

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def _load(self, number: int) -> Saved:
        folder = self._folder / f"{number:012d}"
        try:
            body = _body(folder / "state.json")
            if body["version"] != VERSION:
                raise ValueError(f"version {body['version']}, this trainer reads {VERSION}")
            data = (folder / "state.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != body["sha256"]:
                raise ValueError("state.safetensors does not match its hash")
            # Views of a file's bytes do not suit an optimiser, which writes in place.
            state = {name: value.clone() for name, value in load(data).items()}
            return Saved(body["meta"], state)
        except _PROBLEMS as error:
            raise CorruptState(f"checkpoint {folder}: {type(error).__name__}: {error}") from error


def _hashed(body: str) -> str:
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})


def _body(path: Path) -> Any:
    outer = json.loads(path.read_text())
    if hashlib.sha256(outer["body"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError(f"{path.name} does not match its hash")
    return json.loads(outer["body"])
