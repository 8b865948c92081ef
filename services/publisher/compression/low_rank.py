"""Low-rank factors: a large matrix as the product of two thin ones (Eckart and Young, 1936; Denton et al., 2014)."""

import numpy as np
from onnx import ModelProto, NodeProto, helper

from services.publisher.compression.graph import Floats, Graph, attribute


def low_rank(model: ModelProto, energy: float) -> ModelProto:
    """Split each matrix whose factors, keeping a share of its energy, hold fewer numbers than it does."""
    graph = Graph(model)
    thin: dict[str, tuple[str, str]] = {}
    for name in graph.weights():
        readers = graph.readers[name]
        turned = {attribute(node, "transB") for node in readers}
        if len(turned) > 1 or any(node.input[1] != name or attribute(node, "transA") for node in readers):
            continue
        matrix = np.asarray(graph.array(name), np.float32)
        left, right = factors(matrix.T if turned == {1} else matrix, energy)
        if left.size + right.size < matrix.size:
            thin[name] = (f"{name}:left", f"{name}:right")
            graph.put(thin[name][0], left)
            graph.put(thin[name][1], right)
    _split(graph, thin)
    return graph.done()


def factors(matrix: Floats, energy: float) -> tuple[Floats, Floats]:
    """[m, r] and [r, n] with the least r whose squared singular values are a share `energy` of all.

    Their product is the nearest matrix of rank r. The roots of the singular values go to both, so that neither has
    numbers of another size than the other.

    >>> left, right = factors(np.outer([1.0, 2.0], [3.0, 4.0]).astype(np.float32), 0.999)
    >>> left.shape, np.allclose(left @ right, [[3, 4], [6, 8]])
    ((2, 1), True)
    """
    u, sizes, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    held = np.cumsum(sizes**2)
    rank = min(len(sizes), 1 + int(np.searchsorted(held, energy * held[-1])))
    root = np.sqrt(sizes[:rank])
    return (u[:, :rank] * root).astype(np.float32), (root[:, None] * v[:rank]).astype(np.float32)


def _split(graph: Graph, thin: dict[str, tuple[str, str]]) -> None:
    nodes: list[NodeProto] = []
    for node in graph.model.graph.node:
        name = node.input[1] if node.op_type in ("MatMul", "Gemm") else ""
        if name in thin:
            left, right = thin[name]
            between = f"{node.output[0]}:thin"
            nodes.append(helper.make_node("MatMul", [node.input[0], left], [between], name=between))
            node.input[0], node.input[1] = between, right
            for found in node.attribute:
                if found.name == "transB":
                    found.i = 0
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(copies)
    graph.index()
