"""Products of 8-bit integers, by onnxruntime's quantiser (scheme of Jacob et al., 2018).

Weights are signed with a scale per column and 7 bits of range: x86 processors without VNNI add pairs of 8-bit products
in 16 bits, which overflow with the eighth (`reduce_range` in onnxruntime's words), and the processor that judges need
not be the one that serves.
"""

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from services.common.spec import Arrays
from services.publisher.compression.graph import Graph

_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Tells the quantiser that the graph was prepared; without it a warning is printed for every release."""


def dynamic(model: ModelProto) -> ModelProto:
    """Activations are scaled by the range they have in each call: no calibration, but a score then depends a little on
    what else is in the call."""
    ready, nodes = _prepared(model)
    if not nodes:
        return Graph(model).done()
    quantization = _quantiser()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantization.quantize_dynamic(
            ready, target, weight_type=quantization.QuantType.QInt8, per_channel=True, reduce_range=True,
            nodes_to_quantize=nodes,
        )  # fmt: skip
        return _cleaned(target)


def static(model: ModelProto, inputs: Arrays) -> ModelProto:
    """Activations are scaled by the range they have on recorded requests; beyond it they are cut."""
    ready, nodes = _prepared(model)
    if not nodes:
        return Graph(model).done()
    quantization = _quantiser()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantization.quantize_static(
            ready, target, _Requests(inputs), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8, nodes_to_quantize=nodes,
        )  # fmt: skip
        return _cleaned(target)


class _Requests:
    """Recorded requests one after the other, in the shape that the calibrator asks for."""

    def __init__(self, inputs: Arrays) -> None:
        self._left: Iterator[Arrays] = iter([inputs])

    def get_next(self) -> Arrays | None:
        """The next ones; None at the end."""
        return next(self._left, None)


def _quantiser() -> Any:
    # It adds a folder to sys.path and megabytes to the process: only where somebody asks for it.
    return importlib.import_module("onnxruntime.quantization")


def _prepared(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """The graph with a name on every node, and the names of those that multiply by a constant matrix."""
    graph = Graph(model)
    weights = set(graph.weights())
    for number, node in enumerate(graph.model.graph.node):
        node.name = node.name or f"{node.op_type}:{number}"
    graph.model.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    nodes = graph.model.graph.node
    return graph.done(), [n.name for n in nodes if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]


def _cleaned(path: Path) -> ModelProto:
    model: Any = onnx.load(str(path))
    used = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain and entry.domain not in used]:
        model.opset_import.remove(entry)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    return ModelProto.FromString(model.SerializeToString())
