"""Magnitude pruning: the smallest weights become zero (Han et al., 2015).

One threshold over all matrices ("class-blind"; See et al., 2016). The zeros stay in their places: the file is as large
as before until something compresses it, and a dense product is as slow. Without the retraining of the paper.
"""

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from services.publisher.compression.graph import Floats, Graph, kept


def prune(model: ModelProto, share: float) -> ModelProto:
    """The same graph with a share of its weights zero."""
    graph = Graph(model)
    names = graph.weights()
    arrays = [np.asarray(graph.array(name), np.float32) for name in names]
    flat = np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0, np.float32)
    pruned = np.where(largest(flat, share), flat, np.float32(0))
    ends = np.cumsum([array.size for array in arrays])
    for name, array, end in zip(names, arrays, ends, strict=True):
        graph.put(name, pruned[end - array.size : end].reshape(array.shape))
    return graph.done()


def largest(weights: Floats, share: float) -> NDArray[np.bool_]:
    """True [n] for those that stay; of equal ones the later go first.

    >>> largest(np.array([0.1, -3, 2, -0.2]), 0.5).tolist()
    [False, True, True, False]
    """
    stays = np.zeros(len(weights), bool)
    stays[np.argsort(-np.abs(weights), kind="stable")[: kept(share, len(weights))]] = True
    return stays
