"""A ranker in small with the real inputs: enough of a graph that every kind of input moves the score."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from services.common.spec import OUTPUT, ModelSpec, input_shapes

RETRIEVAL_DIM = 8


def write_onnx(path: Path, spec: ModelSpec, seed: int = 0) -> None:
    """Sigmoid of a weighted sum of numbers (missing = 0), content · history and row · user row, per head."""
    random = np.random.default_rng(seed)
    users, items, heads = len(spec.user_features), len(spec.item_features), len(spec.heads)
    constants = {
        "zero": np.zeros((), np.float32),
        "w_user": random.normal(scale=0.1, size=(users, heads)).astype(np.float32),
        "w_item": random.normal(scale=0.1, size=(items, heads)).astype(np.float32),
        "bias": np.array([-2.0, -3.0, -4.0][:heads], np.float32),
        "one": np.array([1]),
        "last": np.array([-1]),
    }
    nodes = [
        *_clean("user"),
        *_clean("item"),
        helper.make_node("MatMul", ["user_clean", "w_user"], ["from_user"]),
        helper.make_node("Unsqueeze", ["from_user", "one"], ["user_logit"]),
        helper.make_node("MatMul", ["item_clean", "w_item"], ["item_logit"]),
        helper.make_node("ReduceSum", ["history_content", "one"], ["taste"], keepdims=0),
        helper.make_node("Unsqueeze", ["taste", "last"], ["taste_column"]),
        helper.make_node("MatMul", ["content", "taste_column"], ["likeness"]),
        helper.make_node("Mul", ["user_row", "user_row_mask"], ["user_there"]),
        helper.make_node("Unsqueeze", ["user_there", "last"], ["user_column"]),
        helper.make_node("Mul", ["row", "row_mask"], ["row_there"]),
        helper.make_node("MatMul", ["row_there", "user_column"], ["affinity"]),
        helper.make_node("Sum", ["user_logit", "item_logit", "likeness", "affinity", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], [OUTPUT]),
    ]
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(n, types[t], list(s)) for n, (s, t) in input_shapes(spec).items()]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", "N", heads])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _clean(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("IsNaN", [name], [f"{name}_missing"]),
        helper.make_node("Where", [f"{name}_missing", "zero", name], [f"{name}_filled"]),
        helper.make_node("Tanh", [f"{name}_filled"], [f"{name}_clean"]),
    ]


def write_release(store: Path, name: str, spec: ModelSpec, learned_up_to_us: int, seed: int = 0) -> Path:
    """`releases/<name>/` of a store with model, retrieval matrices and manifest; returns the folder."""
    folder = store / "releases" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    write_onnx(folder / "model.onnx", spec, seed)
    matrices = {"content": spec.content_dim, "row": spec.row_dim, "user_row": spec.row_dim}
    save_file(
        {n: random.normal(size=(size, RETRIEVAL_DIM)).astype(np.float32) for n, size in matrices.items()},
        folder / "retrieval.safetensors",
    )
    manifest = {
        "release": name,
        "arm": "main",
        "lineage": 1,
        "epoch": 1,
        "seq": 1,
        "slot": "a",
        "parent": "",
        "created_us": learned_up_to_us,
        "learned_up_to_us": learned_up_to_us,
        "spec": spec.to_json(),
        "metrics": {"auc": 0.7},
        "objective": {"click": 1.0, "purchase": 2.0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
