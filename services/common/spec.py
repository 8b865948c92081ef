"""What a model takes in, and how impressions become its inputs: one definition for trainer, publisher and gateway.

A release's manifest carries a `ModelSpec`; the arrays below are the inputs of `model.onnx` by name.
Ids never enter the graph (design D3): rows of embeddings are inputs like any feature.
Missing numbers travel as NaN; the graph turns them into value 0 and mask 1 (value + mask, never a zero alone).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import mmh3
import numpy as np
from numpy.typing import NDArray

from services.common.content import CONTENT_DIM

PADDINGS = (32, 128, 512, 1024)
"""Numbers of candidates that requests are padded to, so that the server sees four shapes."""

CONTEXT_BUCKETS = 32
"""Hash buckets of each context field; the small tables live inside the graph."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureRef:
    """One numeric input: its id (name + hash of its definition), and where it is read."""

    id: int
    name: str
    view: str


@dataclass(frozen=True)
class ModelSpec:
    """Inputs and outputs of one exported model."""

    user_features: tuple[FeatureRef, ...]
    item_features: tuple[FeatureRef, ...]
    """Item features and cross features, in the order of the last axis of input `item`."""
    heads: tuple[str, ...] = ("click", "cart", "purchase")
    row_dim: int = 16
    content_dim: int = CONTENT_DIM
    history_length: int = 20
    feature_service: str = ""
    """name@hash of the ranking FeatureService the features were taken from."""
    extra: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "ModelSpec":
        """Read back what `to_json` wrote."""
        refs = {k: tuple(FeatureRef(**r) for r in data[k]) for k in ("user_features", "item_features")}
        return ModelSpec(**{**data, **refs, "heads": tuple(data["heads"])})


def input_shapes(spec: ModelSpec) -> dict[str, tuple[tuple[str | int, ...], str]]:
    """Name -> (shape with B, N for the free axes, dtype) of each input of `model.onnx`."""
    d, c, length = spec.row_dim, spec.content_dim, spec.history_length
    return {
        "user": (("B", len(spec.user_features)), "float32"),
        "user_row": (("B", d), "float32"),
        "user_row_mask": (("B", 1), "float32"),
        "context": (("B", 3), "int64"),
        "history_content": (("B", length, c), "float32"),
        "history_row": (("B", length, d), "float32"),
        "history_row_mask": (("B", length, 1), "float32"),
        "history_kind": (("B", length), "int64"),
        "history_age": (("B", length), "float32"),  # ln(1 + seconds between the entry and the request)
        "history_mask": (("B", length), "float32"),
        "item": (("B", "N", len(spec.item_features)), "float32"),
        "content": (("B", "N", c), "float32"),
        "row": (("B", "N", d), "float32"),
        "row_mask": (("B", "N", 1), "float32"),
        "mask": (("B", "N"), "float32"),  # 1 = a candidate, 0 = padding
    }


OUTPUT = "scores"
"""Name of the output: probabilities, float32 [B, N, heads]."""


def zeros(spec: ModelSpec, batch: int, candidates: int) -> Arrays:
    """Inputs of the right shapes, all absent: NaN features, zero rows and masks."""
    free = {"B": batch, "N": candidates}
    out: Arrays = {}
    for name, (shape, dtype) in input_shapes(spec).items():
        out[name] = np.zeros([free[s] if isinstance(s, str) else s for s in shape], dtype=dtype)
    out["user"][:] = np.nan
    out["item"][:] = np.nan
    return out


def padded(candidates: int) -> int:
    """The smallest padding that holds so many candidates. Raises ValueError above 1,024.

    >>> padded(33)
    128
    """
    for size in PADDINGS:
        if candidates <= size:
            return size
    raise ValueError(f"{candidates} candidates, at most {PADDINGS[-1]}")


def context_ids(region: str, device: str, platform: str) -> tuple[int, int, int]:
    """Buckets of the three context fields; 0 = empty."""
    return _bucket("r", region), _bucket("d", device), _bucket("p", platform)


def _bucket(field_name: str, text: str) -> int:
    return 1 + mmh3.hash(f"{field_name}:{text}".encode(), signed=False) % (CONTEXT_BUCKETS - 1) if text else 0


def history_age(now_us: int, time_us: int) -> float:
    """ln(1 + age in seconds), the scale of input `history_age`; ages before now only."""
    return float(np.log1p(max(0, now_us - time_us) / 1e6))


def columns_for(refs: Sequence[FeatureRef], ids: Sequence[int]) -> NDArray[np.int64]:
    """For each wanted feature, its place in `ids` or -1: how to read as-served values of another release.

    >>> columns_for([FeatureRef(7, "a", "v"), FeatureRef(9, "b", "v")], [9, 5])
    array([-1,  0])
    """
    place = {feature: index for index, feature in enumerate(ids)}
    return np.array([place.get(ref.id, -1) for ref in refs], dtype=np.int64)
