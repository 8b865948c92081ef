"""The gate of a compressed file: what it saves and what it costs, measured against the file it was made from."""

import gzip
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from services.publisher import scores
from services.publisher.checks import Check, at_least, at_most
from services.publisher.golden import Golden
from services.publisher.onnx_file import OnnxModel, Scores
from services.publisher.replay import Scored

_ROUNDING = 1e-6
"""Relative noise on inputs: more than two builds of a runtime differ by."""
_EXACT = frozenset({"user", "item"})
"""Numeric features: a model may ask whether one is 1 exactly, so noise on them is another question."""


@dataclass(frozen=True)
class CompressionBounds:
    """What a compressed file must save and may cost, against the file it was made from."""

    size: float = 0.9
    """Its bytes over the original's: one that saves nothing is not worth any loss."""
    latency: float = 1.2
    """Time of a golden batch over the original's; what a busy machine makes of equal ones lies below."""
    auc: float = 0.001
    """Area under the curve that it may lose on the replayed impressions."""
    log_loss: float = 0.002
    """Relative rise of log-loss on them."""
    error: float = 0.05
    """Largest difference of a score of a golden request."""
    impressions: int = 300
    """Replayed impressions behind the figures."""


@dataclass(frozen=True)
class Figures:
    """What was measured of one file; NaN where nothing was."""

    bytes: int
    gzip_bytes: int
    batch_ms: float = float("nan")
    auc: float = float("nan")
    log_loss: float = float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain data for manifest and audit record; what was not measured is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Answers:
    """Scores [B, N, heads] of the golden requests, and by how much they may differ when asked again."""

    scores: Scores
    tolerance: float


def zipped(data: bytes) -> int:
    """Bytes of a file after gzip."""
    return len(gzip.compress(data, 6, mtime=0))


def answered(model: OnnxModel, requests: Golden) -> Answers:
    """What the compressed file says to the golden requests.

    Its tolerance is the manifest's own, or twice what the file differs from itself by where that is more: between a
    request alone and in a batch (activations may be scaled by the call they come in), and for inputs off by a rounding.
    """
    said = model.run(requests.inputs)
    signs = np.random.default_rng(0)
    shaken = {
        name: (array * (1 + _ROUNDING * signs.choice((-1, 1), array.shape))).astype(np.float32)
        if array.dtype == np.float32 and name not in _EXACT and "mask" not in name
        else array
        for name, array in requests.inputs.items()
    }
    alone = gap(model.run(requests.smallest()), said[:1], requests.mask[:1])
    return Answers(said, max(requests.tolerance, 2 * alone, 2 * gap(model.run(shaken), said, requests.mask)))


def judge_size(original: int, compressed: int, bounds: CompressionBounds) -> Check:
    """Is it smaller? In bytes of the file as it is staged."""
    return at_most("compression_size", compressed / original, bounds.size, "of the original's bytes")


def judge_answers(said: Answers, requests: Golden, bounds: CompressionBounds) -> list[Check]:
    """How far it is from the original on the golden requests, and from itself."""
    error = gap(said.scores, requests.scores, requests.mask)
    return [
        at_most("compression_error", error, bounds.error, "largest difference of a golden score"),
        at_most("compression_tolerance", said.tolerance, bounds.error, "twice what it differs from itself by"),
    ]


def judge_time(original_ms: float, compressed_ms: float, bounds: CompressionBounds) -> Check:
    """Is it at least not much slower?"""
    return at_most("compression_latency", compressed_ms / original_ms, bounds.latency, "of the original's golden batch")


def judge_replay(original: Scored, compressed: Scored, bounds: CompressionBounds) -> list[Check]:
    """Area and log-loss of the first head on the replayed impressions; too few of them speak against it."""
    enough = at_least("compression_impressions", original.impressions, bounds.impressions)
    if not enough.passed:
        return [enough]
    labels, groups = original.labels[:, 0], original.groups
    before, after = original.scores[:, 0], compressed.scores[:, 0]
    area = scores.auc_difference(labels, after, before, groups)
    rise = scores.loss_difference(labels, after, before, groups).mean / scores.log_loss(labels, before)
    return [
        enough,
        at_least("compression_auc", area.mean, -bounds.auc, "against the original"),
        at_most("compression_log_loss", rise, bounds.log_loss, "relative to the original"),
    ]


def gap(one: Scores, other: Scores, mask: Scores) -> float:
    """Largest difference over real candidates; NaN when shapes differ or there are none."""
    if one.shape != other.shape:
        return float("nan")
    found = np.abs(one - other)[mask > 0]
    return float(found.max()) if found.size else float("nan")
