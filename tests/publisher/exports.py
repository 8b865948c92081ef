"""Small worlds for the publisher's tests: impressions with true probabilities, exported models, row deltas."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from freshrank.v1.events_pb2 import DEGRADATION_NONE, Impression, ImpressionItem
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from services.common.encode import NoRows, RowLookup, encode
from services.common.spec import Arrays, FeatureRef, ModelSpec, input_shapes
from services.publisher import scores
from services.publisher.onnx_file import OnnxModel
from services.publisher.replay import Closed

SPEC = ModelSpec(
    user_features=(FeatureRef(11, "visits", "user_stats"),),
    item_features=tuple(FeatureRef(21 + i, f"feature_{i}", "item_stats") for i in range(6)),
    row_dim=4,
    content_dim=8,
    history_length=3,
)

TRUE_WEIGHTS = np.array([0.9, -0.6, 0.4, 0.3, -0.2, 0.1], np.float32)
BASE = (-2.0, -3.0, -4.0)
"""Intercept of each head."""

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class Net:
    """A logistic model: item features by weights, plus item row times user row; `work` makes it slow."""

    weights: NDArray[np.float32] = field(default_factory=lambda: TRUE_WEIGHTS.copy())
    base: tuple[float, float, float] = BASE
    rows: float = 1.0
    work: int = 0
    spec: ModelSpec = SPEC
    opset: int = 17
    ir_version: int = 9


def model_proto(net: Net) -> onnx.ModelProto:
    """The net as an ONNX graph with every input that its spec names."""
    heads = len(net.spec.heads)
    constants = {
        "zero": np.float32(0),
        "weights": np.repeat(net.weights[:, None], heads, axis=1).astype(np.float32),
        "base": np.array(net.base, np.float32),
        "row_scale": np.float32(net.rows),
        "last": np.array([2], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["item"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "item"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["linear"]),
        helper.make_node("Unsqueeze", ["user_row", "one"], ["shopper"]),
        helper.make_node("Mul", ["row", "shopper"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["match"], keepdims=1),
        helper.make_node("Mul", ["match", "row_scale"], ["scaled"]),
        helper.make_node("Add", ["linear", "scaled"], ["both"]),
        helper.make_node("Add", ["both", "base"], ["logits"]),
    ]
    last = "logits"
    if net.work:
        constants |= {
            "wide": np.zeros((heads, net.work), np.float32),
            "back": np.zeros((net.work, net.work), np.float32),
        }
        constants["narrow"] = np.zeros((net.work, heads), np.float32)
        nodes.append(helper.make_node("MatMul", ["logits", "wide"], ["w0"]))
        for i in range(4):
            nodes.append(helper.make_node("MatMul", [f"w{i}", "back"], [f"w{i + 1}"]))
        nodes.append(helper.make_node("MatMul", ["w4", "narrow"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["logits", "nothing"], ["slow_logits"]))
        last = "slow_logits"
    nodes.append(helper.make_node("Sigmoid", [last], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, _TYPES[t], list(s)) for n, (s, t) in input_shapes(net.spec).items()],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "N", heads])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)])
    made.ir_version = net.ir_version
    return made


@lru_cache(maxsize=16)
def window(count: int, seed: int) -> list[Closed]:
    """Impressions that several tests look at and none changes."""
    return impressions(count, seed)


def impressions(
    count: int, seed: int = 0, items: int = 10, weights: NDArray[np.float32] = TRUE_WEIGHTS
) -> list[Closed]:
    """Closed impressions whose clicks follow the true weights; cart and purchase follow clicks."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        features = rng.normal(size=(items, len(weights))).astype(np.float32)
        clicked = rng.random(items) < 1 / (1 + np.exp(-(features @ weights + BASE[0])))
        carted = clicked & (rng.random(items) < 0.3)
        impression = Impression(
            impression_id=f"{seed:016x}{number:016x}",
            user_id=f"user-{number % 97}",
            time_us=1_000_000 * (number + 1),
            user_feature_ids=[11],
            user_features=[float(number % 7)],
            item_feature_ids=[ref.id for ref in SPEC.item_features],
            degradation=DEGRADATION_NONE,
            items=[
                ImpressionItem(item_id=f"item-{int(rng.integers(200))}", position=k, features=row, shown=True)
                for k, row in enumerate(features.tolist())
            ],
        )
        labels = tuple((clicked.astype(int) + 2 * carted.astype(int)).tolist())
        out.append(Closed(impression, tuple(range(items)), labels))
    return out


def golden_inputs(spec: ModelSpec = SPEC, batch: int = 4, candidates: int = 32, seed: int = 5) -> Arrays:
    """Recorded requests: real impressions, padded."""
    served = [c.impression for c in impressions(batch, seed)]
    short = encode(served, spec, NoRows(spec.row_dim))
    rng = np.random.default_rng(seed)
    out: Arrays = {}
    for name, (shape, dtype) in input_shapes(spec).items():
        whole = [{"B": batch, "N": candidates}[s] if isinstance(s, str) else s for s in shape]
        array = np.zeros(whole, dtype)
        if name in ("item", "user"):
            array[:] = np.nan
        array[tuple(slice(0, n) for n in short[name].shape)] = short[name]
        out[name] = array
    out["user_row"] = rng.normal(size=out["user_row"].shape).astype(np.float32)
    out["row"] = rng.normal(size=out["row"].shape).astype(np.float32) * out["mask"][..., None]
    return out


def figures(
    candidate: Net, champion: Net | None, closed: list[Closed], rows: RowLookup | None = None
) -> dict[str, float]:
    """What a learner would report of two nets on the same impressions."""
    found = _figures(candidate, closed, rows)
    found["impressions"] = float(len(closed))
    if champion is not None:
        found |= {f"champion_{k}": v for k, v in _figures(champion, closed, rows).items()}
    return found


def _figures(net: Net, closed: list[Closed], rows: RowLookup | None) -> dict[str, float]:
    arrays = _encoded(closed, net.spec) if rows is None else encode(_of(closed), net.spec, rows)
    predicted = predict(net, arrays)[..., 0].ravel()
    labels = np.array([bits & 1 for c in closed for bits in c.labels])
    return {
        "auc": scores.auc(labels, predicted),
        "log_loss": scores.log_loss(labels, predicted),
        "ndcg_at_10": 0.5,
        "ctr": float(labels.mean()),
    }


_ENCODED: dict[tuple[str, int, str], Arrays] = {}
"""Arrays of impressions that several tests look at."""


def _encoded(closed: list[Closed], spec: ModelSpec) -> Arrays:
    key = (closed[0].impression.impression_id, len(closed), repr(spec))
    if key not in _ENCODED:
        _ENCODED[key] = encode(_of(closed), spec, NoRows(spec.row_dim))
    return _ENCODED[key]


def _of(closed: Iterable[Closed]) -> list[Impression]:
    return [c.impression for c in closed]


def predict(net: Net, arrays: Arrays) -> NDArray[np.float32]:
    """The net in numpy: [B, N, heads]."""
    linear = np.nan_to_num(arrays["item"]) @ net.weights
    match = (arrays["row"] * arrays["user_row"][:, None]).sum(-1)
    logits = (linear + net.rows * match)[..., None] + np.array(net.base, np.float32)
    out: NDArray[np.float32] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return out


def export(
    folder: Path,
    net: Net,
    metrics: Mapping[str, float],
    *,
    trained: Net | None = None,
    seq: int = 1,
    second: int = 1,
    parent: str = "",
    lineage: int = 1,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a candidate as the trainer does; `trained` differs from `net` where the export went wrong."""
    release = f"r20260102t0304{second:02d}-{lineage}-{seq}"
    target = folder / release
    target.mkdir(parents=True)
    onnx.save(model_proto(net), str(target / "model.onnx"))
    inputs = golden_inputs(net.spec)
    answers = predict(trained or net, inputs)
    save_file({**{f"in.{k}": v for k, v in inputs.items()}, "out.scores": answers}, str(target / "golden.safetensors"))
    save_file({"content": np.zeros((8, 4), np.float32)}, str(target / "retrieval.safetensors"))
    write_manifest(target, metrics, seq=seq, parent=parent, lineage=lineage, spec=net.spec, more=more)
    return target


def write_manifest(
    target: Path,
    metrics: Mapping[str, float],
    *,
    seq: int = 1,
    parent: str = "",
    lineage: int = 1,
    spec: ModelSpec = SPEC,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write manifest.json with the hashes of what lies in the folder."""
    names = ("model.onnx", "golden.safetensors", "retrieval.safetensors")
    manifest = {
        "release": target.name,
        "arm": "main",
        "lineage": lineage,
        "epoch": lineage,
        "seq": seq,
        "slot": "a" if lineage % 2 else "b",
        "parent": parent,
        "created_us": 1_000_000,
        "learned_up_to_us": 1_000_000,
        "positions": {"0": 10},
        "spec": spec.to_json(),
        "metrics": dict(metrics),
        "checkpoint": f"{lineage}-{seq}",
        "torch": "2",
        "files": {n: hashlib.sha256((target / n).read_bytes()).hexdigest() for n in names},
        "objective": {"click": 1.0},
        "golden_tolerance": 1e-4,
        **(more or {}),
    }
    (target / "manifest.json").write_text(json.dumps(manifest))


def write_delta(
    folder: Path, seq: int, items: dict[str, list[float]], users: dict[str, list[float]] | None = None, **meta: str
) -> Path:
    """Write a row delta as the trainer does."""
    folder.mkdir(parents=True, exist_ok=True)
    epoch = int(meta.get("epoch", "1"))
    users = users or {}
    tensors = {
        "item_rows": np.array(list(items.values()), np.float32).reshape(len(items), -1 if items else 4),
        "user_rows": np.array(list(users.values()), np.float32).reshape(len(users), -1 if users else 4),
    }
    metadata = {
        "item_ids": json.dumps(list(items)),
        "user_ids": json.dumps(list(users)),
        "epoch": str(epoch),
        "seq": str(seq),
        "learned_up_to_us": str(seq * 1_000_000),
        "positions": '{"0": 5}',
        "champion_log_loss": "nan",
        "champion_rows": "0",
        **meta,
    }
    path = folder / f"{epoch:08d}-{seq:012d}.safetensors"
    save_file(tensors, str(path), metadata)
    return path


def noisy(net: Net, size: float, seed: int) -> Net:
    """The same net with noise on its weights: a little worse the larger it is."""
    rng = np.random.default_rng(seed)
    return replace(net, weights=(net.weights + rng.normal(scale=size, size=len(net.weights))).astype(np.float32))


@lru_cache
def with_auc_lost(lost: float) -> Net:
    """A net whose AUC is lower by so much, found by turning its weights away."""
    seen = window(2_000, 2)
    away = np.array([-0.6, 0.9, 0.1, -0.4, 0.3, 0.5], np.float32)
    champion = Net()
    best = figures(champion, None, seen)["auc"]
    low, high = 0.0, 1.0
    for _ in range(18):
        share = (low + high) / 2
        turned = replace(champion, weights=(champion.weights + share * away).astype(np.float32))
        if best - figures(turned, None, seen)["auc"] < lost:
            low = share
        else:
            high = share
    return turned


def onnx_model(net: Net, folder: Path) -> OnnxModel:
    """The net as a session."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model_proto(net), str(path))
    return OnnxModel(path)
