"""Figures of ranked lists: AUC over all candidates, log-loss, NDCG@10 per list."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Labels = NDArray[np.bool_]

EPSILON = 1e-6
"""Probabilities are kept this far from 0 and 1."""


def auc(labels: Labels, scores: Floats) -> float:
    """Probability that a positive is scored above a negative, ties counting half; NaN without one of both.

    >>> auc(np.array([True, False, False]), np.array([0.3, 0.1, 0.3], np.float32))
    0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, back, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[back]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(labels: Labels, scores: Floats) -> float:
    """Mean log-loss; NaN when there is nothing.

    >>> round(log_loss(np.array([True]), np.array([0.5], np.float32)), 4)
    0.6931
    """
    if not len(labels):
        return float("nan")
    p = np.clip(scores.astype(np.float64), EPSILON, 1 - EPSILON)
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean())


def entropy(scores: Floats) -> float:
    """Mean log-loss that probabilities expect of themselves; NaN when there are none.

    >>> round(entropy(np.array([0.5, 0.5], np.float32)), 4)
    0.6931
    """
    if not len(scores):
        return float("nan")
    p = np.clip(scores.astype(np.float64), EPSILON, 1 - EPSILON)
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p)).mean())


def ndcg(labels: Labels, scores: Floats, top: int = 10) -> float:
    """NDCG of one list; NaN without a positive. Ties keep the order served.

    >>> ndcg(np.array([False, True]), np.array([0.1, 0.9], np.float32))
    1.0
    """
    if not labels.any():
        return float("nan")
    gains = labels[np.argsort(-scores, kind="stable")][:top]
    discounts = 1 / np.log2(np.arange(2, top + 2))
    best = discounts[: min(top, int(labels.sum()))].sum()
    return float((gains * discounts[: len(gains)]).sum() / best)


@dataclass(frozen=True)
class Rule:
    """What makes a threshold the best one."""

    beta: float = 1.0
    """Recall counts so many times what precision counts (van Rijsbergen, 1979)."""
    precision: float | None = None
    """Least precision; then the threshold with most recall that has it. None: the highest F-beta."""


def best_threshold(labels: Labels, scores: Floats, rule: Rule = Rule()) -> float:
    """The score from which on to say yes; infinite where no score has the precision, NaN without a positive.

    >>> labels, found = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    >>> round(best_threshold(labels, found), 2), round(best_threshold(labels, found, Rule(precision=0.9)), 2)
    (0.7, 0.9)
    """
    positives = int(labels.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))  # equal scores say yes together
    hits, said = np.cumsum(labels[order])[ends], ends + 1
    if rule.precision is None:
        square = rule.beta**2
        return float(falling[ends[int(np.argmax((1 + square) * hits / (said + square * positives)))]])
    enough = np.flatnonzero(hits >= rule.precision * said)
    return float(falling[ends[enough[-1]]]) if len(enough) else float("inf")


def decided(labels: Labels, scores: Floats, threshold: float, beta: float = 1.0) -> dict[str, float]:
    """precision, recall and F-beta of saying yes from a threshold on; NaN where nothing is said, or is to be found."""
    said = scores >= threshold
    hits, yes, positives = int((said & labels).sum()), int(said.sum()), int(labels.sum())
    square = beta**2
    return {
        "precision": hits / yes if yes else float("nan"),
        "recall": hits / positives if positives else float("nan"),
        "f": (1 + square) * hits / (yes + square * positives) if positives else float("nan"),
    }


def logit(scores: Floats) -> NDArray[np.float64]:
    """ln(p / (1 - p)), bounded by EPSILON."""
    p = np.clip(scores.astype(np.float64), EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)
