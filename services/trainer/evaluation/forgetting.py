"""What is still known of earlier: lists of each period, scored again at the end of every later one.

The matrix of Lopez-Paz, Ranzato (2017): row i is after period i, column j the lists of period j. Backward transfer, the
mean of (last row - diagonal), is below zero when the past is forgotten.
"""

import numpy as np

from services.trainer import scores
from services.trainer.examples import Example
from services.trainer.learner import Learner, finally_labelled

KEPT = 150
"""Lists of a period."""


class Forgetting:
    """Keeps the first finished lists of each period."""

    def __init__(self, periods: int) -> None:
        self._kept: list[list[Example]] = [[] for _ in range(periods)]
        self._period = 0
        self.matrix: list[list[float]] = []
        """AUC by period learned, then by period judged."""

    def closed(self, example: Example) -> None:
        """Take a list with its final labels."""
        kept = self._kept[min(self._period, len(self._kept) - 1)]
        if len(kept) < KEPT:
            kept.append(finally_labelled(example))

    def reached(self, share: float, learner: Learner) -> None:
        """So much of the log is learned: at the end of a period every list kept so far is scored."""
        while self._period < len(self._kept) and share >= (self._period + 1) / len(self._kept) - 1e-9:
            self.matrix.append([_auc(learner, kept) for kept in self._kept[: self._period + 1]])
            self._period += 1

    @property
    def backward_transfer(self) -> float:
        """Mean of what was lost since each period; NaN before the second, and where no list tells anything."""
        last = self.matrix[-1] if self.matrix else []
        lost = np.array([last[j] - self.matrix[j][j] for j in range(len(last) - 1)])
        known = lost[np.isfinite(lost)]
        return float(known.mean()) if len(known) else float("nan")


def _auc(learner: Learner, examples: list[Example]) -> float:
    if not examples:
        return float("nan")
    group = learner.encode(examples)
    shown = group.negatives > 0
    return scores.auc(group.positives[:, :, 0][shown] > 0, learner.scores(group)[shown])
