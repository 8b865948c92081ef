"""Structured pruning: hidden units leave with their weights, so that matrices are smaller and products quicker.

A unit is one place of the last axis between two matrices. Which are least is measured: mean absolute activation on
recorded requests times the sum of its outgoing absolute weights, what it adds to the next layer (activations in the
manner of Hu et al., 2016; outgoing weights after Li et al., 2017). Without retraining.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from services.common.spec import Arrays
from services.publisher.compression.graph import Floats, Graph, attribute, kept, last_axes, tensors

_ZERO_STAYS = frozenset({"Relu", "LeakyRelu", "Tanh", "Identity"})
"""Functions of one number that leave 0 as it is."""
_SUMS = frozenset({"Add", "Sub"})


@dataclass
class Cut:
    """Where the units of one layer lie: axes of constants, and splits whose first sizes count them."""

    axes: list[tuple[str, int, int]] = field(default_factory=list)
    """Constant, axis, place of unit 0 on it."""
    splits: list[tuple[str, int]] = field(default_factory=list)
    """Constant with the sizes of a split, and which of its parts holds the units."""

    def __add__(self, other: "Cut") -> "Cut":
        return Cut(self.axes + other.axes, self.splits + other.splits)


def drop_units(model: ModelProto, share: float, inputs: Arrays) -> ModelProto:
    """Take a share of the units of every layer that can be narrowed; the same graph when there is none."""
    graph = Graph(model)
    for node in list(graph.model.graph.node):
        cut = layer_before(graph, node)
        if cut is not None:
            effect = contributions(graph, node, inputs)
            gone = np.sort(np.argsort(effect, kind="stable")[: len(effect) - kept(share, len(effect))])
            _apply(graph, cut, gone)
    return graph.done()


def layer_before(graph: Graph, node: NodeProto) -> Cut | None:
    """The units that a node multiplies by a constant matrix, when all that makes them is known to be theirs alone."""
    if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or attribute(node, "transA"):
        return None
    matrix = graph.array(node.input[1])
    if matrix is None or matrix.ndim != 2 or graph.only_reader(node.input[1]) is None:
        return None
    axis = attribute(node, "transB")
    width = matrix.shape[axis]
    made = _Trace(graph).back(node.input[0], 0, width)
    return Cut([(node.input[1], axis, 0)]) + made if made is not None else None


def contributions(graph: Graph, node: NodeProto, inputs: Arrays) -> Floats:
    """Mean absolute activation of each unit before `node` over real candidates, times its outgoing weights, [units]."""
    active = np.abs(tensors(graph.model, [node.input[0]], inputs)[node.input[0]])
    mask = inputs.get("mask")
    if mask is not None and active.shape[:2] == mask.shape:
        active = active[mask > 0]
    weights = np.asarray(graph.array(node.input[1]), np.float32)
    outgoing = np.abs(weights).sum(axis=1 - attribute(node, "transB"))
    return np.asarray(active.reshape(-1, active.shape[-1]).mean(axis=0) * outgoing, np.float32)


class _Trace:
    """Follows units backwards to the matrices that make them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._last = last_axes(graph.model)

    def back(self, name: str, place: int, width: int) -> Cut | None:
        """`place`: where unit 0 is on the last axis of `name`, `width` long; None = its makers serve others too."""
        graph = self._graph
        node = graph.maker.get(name)
        if node is None or graph.only_reader(name) is None or self._last.get(name) != width:
            return None
        if node.op_type in _ZERO_STAYS or node.op_type == "Unsqueeze":
            return self.back(node.input[0], place, width)
        if node.op_type in _SUMS:
            return _joined([self._term(part, place, width) for part in node.input])
        if node.op_type == "Split":
            return self._split(node, name, place)
        return self._product(node, place)

    def _term(self, name: str, place: int, width: int) -> Cut | None:
        array = self._graph.array(name)
        if array is None:
            return self.back(name, place, width)
        if array.size == 1:
            return Cut()
        owned = self._graph.only_reader(name) is not None and array.shape[-1] == width
        return Cut([(name, array.ndim - 1, place)]) if owned else None

    def _split(self, node: NodeProto, name: str, place: int) -> Cut | None:
        sizes = self._graph.array(node.input[1]) if len(node.input) > 1 else None
        whole = self._last.get(node.input[0])
        if (
            sizes is None
            or whole is None
            or int(sizes.sum()) != whole
            or self._graph.only_reader(node.input[1]) is None
        ):
            return None
        part = list(node.output).index(name)
        made = self.back(node.input[0], place + int(sizes[:part].sum()), whole)
        return Cut([], [(node.input[1], part)]) + made if made is not None else None

    def _product(self, node: NodeProto, place: int) -> Cut | None:
        if node.op_type not in ("MatMul", "Gemm"):
            return None
        matrix = self._graph.array(node.input[1])
        if matrix is None or matrix.ndim != 2 or self._graph.only_reader(node.input[1]) is None:
            return None
        cut = Cut([(node.input[1], 1 - attribute(node, "transB"), place)])
        if node.op_type == "MatMul" or len(node.input) < 3:
            return cut
        bias = self._term(node.input[2], place, matrix.shape[1 - attribute(node, "transB")])
        return cut + bias if bias is not None else None


def _joined(parts: list[Cut | None]) -> Cut | None:
    whole = Cut()
    for part in parts:
        if part is None:
            return None
        whole += part
    return whole


def _apply(graph: Graph, cut: Cut, gone: NDArray[np.int64]) -> None:
    for name, axis, place in cut.axes:
        array = graph.array(name)
        assert array is not None
        graph.put(name, np.delete(array, gone + place, axis=axis))
    for name, part in cut.splits:
        sizes = np.array(graph.array(name), np.int64)
        sizes[part] -= len(gone)
        graph.put(name, sizes)
