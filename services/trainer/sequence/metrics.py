"""Recall@k and MRR@k from exact ranks over the catalogue; ties count as if their order were drawn by lot."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from services.common.errors import InvalidInput

TOP = 20


@dataclass(frozen=True)
class Scores:
    """Means over n questions, as shares of 1; 0 of none."""

    recall: float
    mrr: float
    n: int


def counts(scores: Tensor, targets: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """(items above the target, other items level with it), each [n], of `scores` [n, V] and `targets` [n].

    Raises InvalidInput for scores that are not finite: comparisons with them would count as wins.
    """
    true = scores.gather(1, targets[:, None])
    if not bool(true.isfinite().all()):
        raise InvalidInput("scores", "not_finite", "a target's score is not a finite number")
    above, level = (scores > true).numpy(), (scores >= true).numpy()
    # Row by row: a count over contiguous flags is many times faster than a sum over an axis.
    ahead = np.fromiter((np.count_nonzero(row) for row in above), np.int64, len(above))
    reached = np.fromiter((np.count_nonzero(row) for row in level), np.int64, len(level))
    return ahead, reached - ahead - 1


def scored(above: NDArray[Any], tied: NDArray[Any], top: int = TOP) -> Scores:
    """Expected recall and reciprocal rank when the target is equally likely anywhere among those level with it.

    >>> scored(np.array([0, 1]), np.array([0, 0])).mrr
    0.75
    >>> scored(np.array([19]), np.array([1])).recall
    0.5
    """
    if not len(above):
        return Scores(0.0, 0.0, 0)
    harmonic = np.concatenate([np.zeros(1), np.cumsum(1 / np.arange(1, top + 1))])
    first, last = np.minimum(above, top), np.minimum(above + tied + 1, top)
    recall = (last - first) / (tied + 1)
    mrr = (harmonic[last] - harmonic[first]) / (tied + 1)
    return Scores(float(recall.mean()), float(mrr.mean()), len(above))
