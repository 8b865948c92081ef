"""The champion's dense model on the trainer's current rows: what a candidate has to be better than."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.common.encode import encode
from services.common.errors import CorruptState
from services.common.spec import OUTPUT, ModelSpec, input_shapes
from services.trainer.groups import Group, Tables

Floats = NDArray[np.float32]


class Teacher(Protocol):
    """What is compared with, and may be learned from."""

    release: str

    def scores(self, group: Group, spec: ModelSpec, tables: Tables) -> Floats:
        """Probabilities [B, N, heads] of a group that is encoded by `spec`, on the rows as they are."""
        ...


class Champion:
    """An accepted release, scored as Triton scores it: the exported file in onnxruntime, one thread."""

    def __init__(self, folder: Path) -> None:
        """Load from a release folder. Raises CorruptState when it cannot be."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            self.release = str(manifest["release"])
            self.spec = ModelSpec.from_json(manifest["spec"])
            self._session = session((folder / "model.onnx").read_bytes())
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CorruptState(f"release {folder.name}: {error}") from error

    def scores(self, group: Group, spec: ModelSpec, tables: Tables) -> Floats:
        """Probabilities [B, N, heads] of a group that is encoded by `spec`; one with other features encodes it anew."""
        arrays = group.arrays
        if input_shapes(spec) != input_shapes(self.spec) or _ids(spec) != _ids(self.spec):
            arrays = encode([example.impression for example in group.examples], self.spec, tables)
        out: Floats = self._session.run([OUTPUT], {name: arrays[name] for name in input_shapes(self.spec)})[0]
        return out


def load(name: str, folders: Sequence[Path]) -> Champion | None:
    """The release from the first folder that has it; None when none has. Raises CorruptState."""
    for folder in folders:
        if (folder / name / "manifest.json").exists():
            return Champion(folder / name)
    return None


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A one-thread session on the CPU: the loop has its core, the rest of the machine is not its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _ids(spec: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(ref.id for ref in spec.user_features), tuple(ref.id for ref in spec.item_features)
