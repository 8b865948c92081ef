"""Figures of scored impressions, in plain numpy: AUC, log-loss, calibration, drift.

Arrays are flat over candidates: `labels` [n] in {0, 1}, `scores` [n] probabilities, `groups` [n] the impression
each belongs to.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

_EPSILON = 1e-7
_NEVER = 1e-4
"""Least share of a bin in the stability index: an empty bin is surprising, not infinitely so."""


def log_losses(labels: Floats | Ints, scores: Floats) -> NDArray[np.float64]:
    """Log-loss of each candidate, [n]; probabilities are clipped to 1e-7."""
    p = np.clip(np.asarray(scores, np.float64), _EPSILON, 1 - _EPSILON)
    y = np.asarray(labels, np.float64)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def log_loss(labels: Floats | Ints, scores: Floats) -> float:
    """Mean log-loss; NaN without candidates.

    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    return float(log_losses(labels, scores).mean()) if len(labels) else float("nan")


def base_rate_loss(labels: Floats | Ints) -> float:
    """Log-loss of always answering the mean: what a model has to beat."""
    return log_loss(labels, np.full(len(labels), np.mean(labels))) if len(labels) else float("nan")


def entropy(rate: float) -> float:
    """Log-loss of always answering `rate` when the rate is true.

    >>> round(entropy(0.5), 4)
    0.6931
    """
    p = min(max(rate, _EPSILON), 1 - _EPSILON)
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)))


def calibration(labels: Floats | Ints, scores: Floats) -> float:
    """Sum of probabilities over the number of positives; 1 is right, NaN without positives."""
    positives = float(np.sum(labels))
    return float(np.sum(scores, dtype=np.float64)) / positives if positives else float("nan")


def auc(labels: Floats | Ints, scores: Floats) -> float:
    """Probability that a positive is scored above a negative, ties counting half; NaN without both.

    >>> auc(np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.4, 0.4]))
    0.875
    """
    return _placements(np.asarray(labels) > 0, np.asarray(scores, np.float64))[0]


@dataclass(frozen=True)
class Difference:
    """How much a figure of one model exceeds the other's on the same impressions."""

    mean: float
    error: float
    """Standard error, impressions taken as the independent units."""


def auc_difference(labels: Floats | Ints, one: Floats, other: Floats, groups: Ints) -> Difference:
    """AUC of `one` minus AUC of `other` on the same candidates.

    Standard error after DeLong et al. (1988), its components summed by impression because candidates of one
    impression are not independent (Obuchowski, 1997).
    """
    truth = np.asarray(labels) > 0
    first, parts_first = _placements(truth, np.asarray(one, np.float64))
    second, parts_second = _placements(truth, np.asarray(other, np.float64))
    return Difference(first - second, _clustered(parts_first - parts_second, groups))


def loss_difference(labels: Floats | Ints, one: Floats, other: Floats, groups: Ints) -> Difference:
    """Mean log-loss of `one` minus that of `other` on the same candidates, with its standard error."""
    gap = log_losses(labels, one) - log_losses(labels, other)
    return Difference(float(gap.mean()) if len(gap) else float("nan"), _spread_of_mean(gap, groups))


def loss_error(labels: Floats | Ints, scores: Floats, groups: Ints) -> float:
    """Standard error of the mean log-loss, impressions taken as the independent units."""
    return _spread_of_mean(log_losses(labels, scores), groups)


def stability_index(expected: Floats, actual: Floats, bins: int = 10) -> float:
    """Population stability index of two samples over the quantile bins of the first: 0 = same, > 0.2 = moved.

    >>> stability_index(np.arange(100.0), np.arange(100.0))
    0.0
    """
    if not len(expected) or not len(actual):
        return float("nan")
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = [_shares(sample, edges) for sample in (expected, actual)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def spread_within(scores: Floats, groups: Ints) -> float:
    """Mean over impressions of the standard deviation of their scores: 0 when a model cannot tell candidates apart."""
    if not len(scores):
        return float("nan")
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    values = np.asarray(scores, np.float64)
    mean = np.bincount(index, values) / sizes
    variance = np.bincount(index, (values - mean[index]) ** 2) / sizes
    return float(np.sqrt(variance[sizes > 1]).mean()) if (sizes > 1).any() else float("nan")


def _shares(sample: Floats, edges: Floats) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(edges, sample, side="right"), minlength=len(edges) + 1)
    return np.maximum(counts / len(sample), _NEVER)


def _placements(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """AUC, and the share [n] that each candidate has in its deviation (they sum to 0)."""
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    if not len(positive) or not len(negative):
        return float("nan"), np.full(len(scores), np.nan)
    parts = np.empty(len(scores))
    above = _below(negative, scores[truth])
    parts[truth] = above
    parts[~truth] = 1 - _below(positive, scores[~truth])
    value = float(above.mean())
    parts -= value
    parts[truth] /= len(positive)
    parts[~truth] /= len(negative)
    return value, parts


def _below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray((left + right) / (2 * len(ordered)), np.float64)


def _spread_of_mean(values: NDArray[np.float64], groups: Ints) -> float:
    return _clustered((values - values.mean()) / len(values), groups) if len(values) else float("nan")


def _clustered(parts: NDArray[np.float64], groups: Ints) -> float:
    if not len(parts):
        return float("nan")
    _, index = np.unique(groups, return_inverse=True)
    return float(np.sqrt(np.sum(np.bincount(index, parts) ** 2)))
