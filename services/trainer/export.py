"""A release candidate: the dense model as ONNX, requests to prove it by, and what it is (docs/contracts.md).

Opset 17 by the TorchScript path: production Triton's onnxruntime reads IR 9 at most (design D3).
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from services.common.arms import MAIN, suffix
from services.common.encode import encode
from services.common.errors import CorruptState
from services.common.spec import OUTPUT, PADDINGS, Arrays, ModelSpec, input_shapes, padded
from services.common.tensors import save
from services.trainer.champion import session
from services.trainer.examples import Example
from services.trainer.files import digest, write_folder
from services.trainer.groups import Tables
from services.trainer.hooks import Hooks
from services.trainer.models.base import RankingModel
from services.trainer.retrieval import TwoTower

OPSET, MOST_IR = 17, 9
TOLERANCE = 1e-4
"""Largest difference between the exported file and the model it was made from."""


@dataclass(frozen=True)
class Candidate:
    """What is exported."""

    ranker: RankingModel
    towers: TwoTower
    tables: Tables
    spec: ModelSpec
    requests: Sequence[Example]
    manifest: Mapping[str, Any]
    """The fields of manifest.json that the export itself does not know."""


def release_id(now_us: int, lineage: int, seq: int, arm: str = MAIN) -> str:
    """Name of a release, and of its model in Triton.

    >>> release_id(0, 2, 7), release_id(0, 2, 7, "gentle")
    ('r19700101t000000-2-7', 'r19700101t000000-2-7-gentle')
    """
    return f"r{datetime.fromtimestamp(now_us / 1e6, UTC):%Y%m%dt%H%M%S}-{lineage}-{seq}{suffix(arm)}"


def export(folder: Path, candidate: Candidate, hooks: Hooks) -> None:
    """Write a candidate into `folder`. Raises CorruptState when the file does not score as the model does."""
    ranker = candidate.ranker.adapted(candidate.spec).cpu().eval()
    inputs = golden_inputs(candidate.requests, candidate.spec, candidate.tables)
    with torch.no_grad():
        expected = ranker(*(torch.from_numpy(inputs[name]) for name in ranker.names)).numpy()
    model = onnx_bytes(ranker, candidate.spec)
    check(model, inputs, expected)
    golden = {f"in.{name}": value for name, value in inputs.items()} | {f"out.{OUTPUT}": expected}
    towers = {name: value.detach().numpy().copy() for name, value in candidate.towers.named_parameters()}

    def fill(staging: Path) -> None:
        (staging / "model.onnx").write_bytes(model)
        (staging / "golden.safetensors").write_bytes(save(golden))
        (staging / "retrieval.safetensors").write_bytes(save(towers))
        manifest = {
            **candidate.manifest,
            "spec": candidate.spec.to_json(),
            "torch": str(torch.__version__),
            "golden_tolerance": TOLERANCE,
            "files": {path.name: digest(path) for path in sorted(staging.iterdir())},
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1))

    write_folder(folder, fill, hooks, "export")


def checkpoint_of(manifest: Path) -> str:
    """The checkpoint that a release came from; empty when its manifest cannot be read (it is being removed)."""
    try:
        return str(json.loads(manifest.read_text())["checkpoint"])
    except (OSError, ValueError, KeyError):
        return ""


def onnx_bytes(ranker: RankingModel, spec: ModelSpec) -> bytes:
    """The ranker as an ONNX model with free axes B and N."""
    shapes = input_shapes(spec)
    axes = {n: {k: s for k, s in enumerate(shape) if isinstance(s, str)} for n, (shape, _) in shapes.items()}
    sample = {n: [3 if isinstance(s, str) else s for s in shape] for n, (shape, _) in shapes.items()}
    types = {"float32": torch.float32, "int64": torch.int64}
    target = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript path is marked as old; the newer one writes an IR that production Triton refuses.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            ranker,
            tuple(torch.zeros(sample[name], dtype=types[shapes[name][1]]) for name in ranker.names),
            target,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(ranker.names),
            output_names=[OUTPUT],
            dynamic_axes={**axes, OUTPUT: {0: "B", 1: "N"}},
        )
    return _with_unused(target.getvalue(), spec)


def _with_unused(data: bytes, spec: ModelSpec) -> bytes:
    """The model with the inputs that it does not read, which the exporter leaves out: who asks sends all of them."""
    graph = onnx.load_from_string(data)
    named = {value.name: value for value in graph.graph.input}
    if len(named) == len(input_shapes(spec)):
        return data
    del graph.graph.input[:]
    for name, (shape, dtype) in input_shapes(spec).items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        graph.graph.input.append(named.get(name) or onnx.helper.make_tensor_value_info(name, kind, shape))
    whole: bytes = graph.SerializeToString()
    return whole


def check(model: bytes, inputs: Arrays, expected: NDArray[np.float32]) -> None:
    """Raises CorruptState when the model is newer than Triton reads, lacks an input, or scores differently."""
    graph = onnx.load_from_string(model)
    if graph.ir_version > MOST_IR or any(o.version > OPSET for o in graph.opset_import if not o.domain):
        raise CorruptState(f"model.onnx: IR {graph.ir_version}, at most {MOST_IR}")
    runtime = session(model)
    names = {value.name for value in runtime.get_inputs()}
    if names != set(inputs):
        raise CorruptState(f"model.onnx: inputs {sorted(names ^ set(inputs))} are not as the spec says")
    found = runtime.run([OUTPUT], dict(inputs))[0]
    worst = float(np.abs(found - expected).max(initial=0.0)) if np.isfinite(found).all() else float("inf")
    if not worst <= TOLERANCE:
        raise CorruptState(f"model.onnx: scores differ from the model's by {worst:.2g}, at most {TOLERANCE}")


def golden_inputs(requests: Sequence[Example], spec: ModelSpec, tables: Tables) -> Arrays:
    """Inputs of recorded requests on the rows as they are, N padded as requests are."""
    fitting = [r.impression for r in requests if 0 < len(r.impression.items) <= PADDINGS[-1]]
    arrays = encode(fitting, spec, tables)
    wider = padded(arrays["mask"].shape[1]) - arrays["mask"].shape[1]
    for name, (shape, _) in input_shapes(spec).items():
        if "N" in shape:
            widths = [(0, wider if axis == "N" else 0) for axis in shape]
            fill = np.nan if name == "item" else 0
            arrays[name] = np.pad(arrays[name], widths, constant_values=fill)
    return arrays
