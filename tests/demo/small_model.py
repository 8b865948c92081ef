"""A ranker in small: the shopper travels once, the candidates many times, every dimension but the features varies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

USER, ITEM = 6, 4


def write(path: Path, seed: int = 0) -> None:
    """Scores [B, N] = tanh(sum over features of (user·w [B, 1, ITEM]) × candidates [B, N, ITEM]), 0 where masked."""
    weight = np.random.default_rng(seed).normal(size=(USER, ITEM)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["user", "weight"], ["shopper"]),
        helper.make_node("Unsqueeze", ["shopper", "middle"], ["row"]),
        helper.make_node("Mul", ["row", "candidates"], ["product"]),
        helper.make_node("ReduceSum", ["product", "last"], ["sum"], keepdims=0),
        helper.make_node("Tanh", ["sum"], ["score"]),
        helper.make_node("Cast", ["mask"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["score", "factor"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.array([1]), "middle"),
        numpy_helper.from_array(np.array([-1]), "last"),
    ]
    inputs = [
        helper.make_tensor_value_info("user", TensorProto.FLOAT, ["batch", USER]),
        helper.make_tensor_value_info("candidates", TensorProto.FLOAT, ["batch", "n", ITEM]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", "n"]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "n"])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def request(batch: int, n: int, seed: int = 0) -> Mapping[str, npt.NDArray[Any]]:
    """Inputs of `batch` shoppers with `n` candidates each."""
    random = np.random.default_rng(seed)
    return {
        "user": random.normal(size=(batch, USER)).astype(np.float32),
        "candidates": random.normal(size=(batch, n, ITEM)).astype(np.float32),
        "mask": random.random((batch, n)) < 0.8,
    }
