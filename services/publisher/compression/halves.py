"""Weights of half precision (IEEE 754 binary16): half the bytes on disk; the runtime widens them once, at loading."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from services.publisher.compression.graph import Graph

_LEAST = 128
"""Numbers from which a matrix is stored so: the cast beside it takes bytes too."""


def halves(model: ModelProto) -> ModelProto:
    """Store matrices and tables as float16 and cast them in the graph; those with a number beyond 65,504 stay."""
    graph = Graph(model)
    casts: list[NodeProto] = []
    for name in dict.fromkeys([*graph.weights(), *graph.tables()]):
        array = np.asarray(graph.array(name), np.float32)
        if array.size < _LEAST or not np.abs(array).max() <= np.finfo(np.float16).max:
            continue
        for node in graph.readers[name]:
            for place, read in enumerate(node.input):
                node.input[place] = f"{name}:wide" if read == name else read
        casts.append(helper.make_node("Cast", [f"{name}:half"], [f"{name}:wide"], to=TensorProto.FLOAT))
        graph.put(f"{name}:half", array.astype(np.float16))
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in (*casts, *graph.model.graph.node)]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(nodes)
    return graph.done()
