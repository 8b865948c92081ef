"""An ONNX graph by its tensors: constants, who makes a tensor and who reads it."""

import math
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from services.common.spec import Arrays
from services.publisher.onnx_file import OnnxModel

Floats = NDArray[np.float32]


class Graph:
    """A copy of a model that can be looked up and changed; an alias of a constant is read as the constant itself."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in self.model.graph.initializer}
        del self.model.graph.value_info[:]  # shapes of before the change
        self._inline()
        self.index()

    def index(self) -> None:
        """Look again after nodes were changed."""
        self.maker: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            self.maker |= {name: node for name in node.output}
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in self.model.graph.output}

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The value of a constant; None for what is computed."""
        if name in self.constants:
            return np.asarray(numpy_helper.to_array(self.constants[name]))
        node = self.maker.get(name)
        if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
            return None
        return np.asarray(numpy_helper.to_array(node.attribute[0].t))

    def put(self, name: str, array: NDArray[np.generic]) -> None:
        """Give a constant a value, of any shape; a new name makes a new one."""
        if name in self.maker:  # a Constant node
            self.maker[name].attribute[0].t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array)))
            return
        if name not in self.constants:
            self.constants[name] = self.model.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def only_reader(self, name: str) -> NodeProto | None:
        """The one node that reads a tensor; None when there are several, or when the graph's caller reads it."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def weights(self) -> list[str]:
        """Float matrices that inputs are multiplied by, in the order of the graph."""
        return self._matrices(("MatMul", "Gemm"), 1)

    def tables(self) -> list[str]:
        """Float matrices that rows are looked up in."""
        return self._matrices(("Gather",), 0)

    def done(self) -> ModelProto:
        """The model without constants that nobody reads."""
        graph = self.model.graph
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
            graph.initializer.remove(tensor)
        return self.model

    def _matrices(self, operators: tuple[str, ...], place: int) -> list[str]:
        read = [n.input[place] for n in self.model.graph.node if n.op_type in operators and len(n.input) > place]
        found = (name for name in dict.fromkeys(read) if name in self.constants)
        return [
            n for n in found if self.constants[n].data_type == TensorProto.FLOAT and len(self.constants[n].dims) == 2
        ]

    def _inline(self) -> None:
        graph = self.model.graph
        kept = {value.name for value in graph.output}
        aliases: dict[str, str] = {}
        for node in list(graph.node):
            if node.op_type == "Identity" and node.input[0] in self.constants and node.output[0] not in kept:
                aliases[node.output[0]] = node.input[0]
                graph.node.remove(node)
        for node in graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = aliases.get(name, name)


def attribute(node: NodeProto, name: str, default: int = 0) -> int:
    """An integer attribute of a node."""
    return next((int(found.i) for found in node.attribute if found.name == name), default)


def tensors(model: ModelProto, names: Iterable[str], inputs: Arrays) -> Arrays:
    """What a graph computes on the way, by name."""
    wanted = list(names)
    wider = ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return OnnxModel(wider.SerializeToString()).tensors(wanted, inputs)


def last_axes(model: ModelProto) -> dict[str, int]:
    """Length of the last axis of each tensor where it is known."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found: dict[str, int] = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[-1].HasField("dim_value"):
            found[value.name] = dims[-1].dim_value
    return found


def kept(share: float, count: int) -> int:
    """How many of `count` stay when a share of them goes.

    >>> kept(0.5, 5), kept(0.0, 5), kept(0.29, 100)
    (3, 5, 71)
    """
    return count - math.floor(share * count + 1e-9)
