"""model.onnx as it lies on disk: what it declares, and what it answers.

Production Triton's onnxruntime refuses IR above 9, so the version rules here are its own.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.common.spec import OUTPUT, Arrays, ModelSpec, input_shapes
from services.publisher.checks import Check, at_most, holds

Scores = NDArray[np.float32]

_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True)
class FileBounds:
    """What production can load."""

    ir_version: int = 9
    opset: int = 17
    bytes: int = 256 << 20
    """Size of model.onnx: rows are inputs, so a large file holds something it should not."""


@dataclass(frozen=True)
class Inspection:
    """What the file declares, read without running it."""

    ir_version: int
    opset: int
    domains: frozenset[str]
    external_data: bool
    functions: int
    size: int
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    outputs: dict[str, tuple[str, tuple[int | None, ...]]]


def inspect(source: Path | bytes) -> Inspection:
    """Read the declarations. Raises CorruptState when the file, or its bytes, are no valid ONNX graph."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        model = onnx.load_model_from_string(data)
        external = _external(model)
        if not external:  # else the checker would go and look for the other file
            onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise CorruptState(
            f"model.onnx: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    domains = frozenset(o.domain for o in model.opset_import)
    return Inspection(
        ir_version=model.ir_version,
        opset=max((o.version for o in model.opset_import if o.domain in _DOMAINS), default=0),
        domains=domains | frozenset(node.domain for node in model.graph.node),
        external_data=external,
        functions=len(model.functions),
        size=len(data),
        inputs={value.name: _declared(value) for value in model.graph.input},
        outputs={value.name: _declared(value) for value in model.graph.output},
    )


def judge_declaration(found: Inspection, spec: ModelSpec, bounds: FileBounds) -> list[Check]:
    """Is it a file that production loads, with exactly the inputs and the output that its spec names?"""
    wanted = {
        name: (dtype, tuple(n if isinstance(n, int) else None for n in shape))
        for name, (shape, dtype) in input_shapes(spec).items()
    }
    wrong = sorted(name for name in wanted.keys() | found.inputs.keys() if wanted.get(name) != found.inputs.get(name))
    output = {OUTPUT: ("float32", (None, None, len(spec.heads)))}
    return [
        at_most("ir_version", found.ir_version, bounds.ir_version),
        at_most("opset", found.opset, bounds.opset),
        holds(
            "standard_operators",
            found.domains <= _DOMAINS and not found.functions,
            f"domains {sorted(found.domains)}, {found.functions} functions",
        ),
        holds("no_external_data", not found.external_data, "weights outside the file"),
        at_most("bytes", found.size, bounds.bytes),
        holds("inputs", not wrong, ", ".join(f"{n}: {found.inputs.get(n)}, not {wanted.get(n)}" for n in wrong[:3])),
        holds("outputs", found.outputs == output, f"{found.outputs}"),
    ]


class OnnxModel:
    """A session on one thread: the judge must not take the cores from those who serve."""

    def __init__(self, model: Path | bytes) -> None:
        """Raises CorruptState when the file, or its bytes, cannot be loaded."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            source = model if isinstance(model, bytes) else os.fspath(model)
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base of their own
            raise CorruptState(f"model.onnx does not load: {error}") from error
        self._wanted = {value.name for value in self._session.get_inputs()}

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> Scores:
        """Scores [B, N, heads]. Raises CorruptState when the graph fails on these inputs."""
        return np.asarray(self.tensors([OUTPUT], arrays)[OUTPUT])

    @property
    def outputs(self) -> list[str]:
        """Names of all outputs."""
        return [value.name for value in self._session.get_outputs()]

    def tensors(self, names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name. Raises CorruptState when the graph fails on these inputs."""
        try:
            values = self._session.run(list(names), {k: v for k, v in arrays.items() if k in self._wanted})
        except Exception as error:
            raise CorruptState(f"model.onnx does not run: {error}") from error
        return dict(zip(names, values, strict=True))


def fastest_ms(models: Mapping[str, OnnxModel], arrays: Arrays, runs: int = 12) -> dict[str, float]:
    """Least milliseconds of a run of each model, taken in turn so that a busy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(runs):
        for name, model in models.items():
            start = time.perf_counter()
            model.run(arrays)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: min(taken) for name, taken in times.items()}


def _declared(value: Any) -> tuple[str, tuple[int | None, ...]]:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in tensor.shape.dim)
    return _TYPES.get(tensor.elem_type, str(tensor.elem_type)), shape


def _external(model: Any) -> bool:
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
            return True
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.t.data_location == onnx.TensorProto.EXTERNAL:
                    return True
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
    return False
