"""Noise on selected rows alone: DP-AdaFEST (Ghazi et al., 2023), with a shopper in the place of an example.

Of each shopper there is a second vector beside the gradient, 1 for every row of an item that the gradient touches,
clipped to C1. The sum of these gets noise of deviation sigma1 · C1 on *every* public row; where that reaches the
threshold tau the row survives. Survivors alone get the gradient, clipped to C2 and summed, with noise of deviation
sigma2 · C2; all others stay. The two are Gaussian mechanisms in a row, as dear as one whose noise multiplier is
(sigma1^-2 + sigma2^-2)^(-1/2): Rényi divergences of order alpha, alpha / (2 sigma²) each, add up.

Rows that nobody touches survive by noise alone, each with the chance Q(tau / (sigma1 · C1)), independent of each other.
So how many do is one binomial draw, and which ones is a draw without replacement: the same distribution as a normal
draw for every row, without making one.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass

import numpy as np

from services.trainer.keyindex import Slots
from services.trainer.privacy.mechanism import Contribution, Doubles, positions, summed


@dataclass(frozen=True)
class Selection:
    """Which rows move in a round."""

    noise: float
    """Noise multiplier sigma1 of the map of contributions."""
    threshold: float
    """tau: what of the noisy sum a row needs; a shopper who touches one row alone adds `clip` to it."""
    clip: float = 1.0
    """Largest length C1 of what one shopper adds to the map."""

    def charged(self, noise: float) -> float:
        """Noise multiplier of one mechanism as dear as the map and a sum with `noise` together.

        >>> Selection(4.0, 1.0).charged(3.0)
        2.4
        """
        return self.noise * noise / math.hypot(self.noise, noise)

    def by_noise(self) -> float:
        """Chance that a row survives which nobody touches."""
        return 0.5 * math.erfc(self.threshold / (self.noise * self.clip) / math.sqrt(2))

    def survivors(self, source: np.random.Generator, counts: Doubles, touched: Slots, rows: int) -> Slots:
        """Places that survive, ascending, of so many rows; `counts` [n] are of the `touched` places [n], ascending."""
        noisy = counts + self.noise * self.clip * source.standard_normal(len(counts))
        others = rows - len(touched)
        false = np.sort(source.choice(others, source.binomial(others, self.by_noise()), replace=False, shuffle=False))
        # The k-th place that is not touched lies behind k others and all touched ones before it.
        false += np.searchsorted(touched - np.arange(len(touched)), false, side="right")
        return np.sort(np.concatenate([touched[noisy >= self.threshold], false]))


class SelectedSum:
    """The sum of clipped contributions over dense weights [P] and touched rows, of which survivors are left."""

    def __init__(self, dense: int, public: Slots, dim: int, selection: Selection) -> None:
        """`public` [M]: slots of the items that have rows, each once, in ascending order."""
        self._public, self._dim, self._selection = public, dim, selection
        self._slots: list[Slots] = []
        self._values: list[Doubles] = []
        self.dense = np.zeros(dense)

    @property
    def slots(self) -> Slots:
        """Of the rows that are touched; after `add_noise`, that survived; ascending [n]."""
        return self._summed()[0]

    @property
    def rows(self) -> Doubles:
        """Their sums [n, D]."""
        return self._summed()[1][:, :-1]

    @property
    def counts(self) -> Doubles:
        """What the map holds of them [n]."""
        return self._summed()[1][:, -1]

    def add(self, contribution: Contribution) -> None:
        """Take one shopper's in. Raises IndexError for a row of an item that is not public."""
        positions(self._public, contribution.slots)
        touched = contribution.rows.any(axis=1)
        length = math.sqrt(np.count_nonzero(touched))
        share = min(1.0, self._selection.clip / max(length, 1e-300))
        self.dense += contribution.dense
        self._slots.append(contribution.slots[touched])
        self._values.append(np.hstack([contribution.rows[touched], np.full((int(touched.sum()), 1), share)]))

    def digest(self, secret: bytes, deviation: float) -> str:
        """See `RoundSum`: also of the map and of how it is selected from."""
        slots, values = self._summed()
        code = hmac.new(secret, f"selected {deviation!r} {self._selection!r}".encode(), hashlib.sha256)
        for array in (self._public, slots, self.dense, values):
            code.update(np.ascontiguousarray(array).tobytes())
        return code.hexdigest()

    def add_noise(self, source: np.random.Generator, deviation: float) -> None:
        """Select by the noisy map; then normal noise of that deviation on dense weights and rows that survived."""
        slots, values = self._summed()
        touched, known = positions(self._public, slots), self._selection
        chosen = known.survivors(source, values[:, -1], touched, len(self._public))
        at, there = np.searchsorted(touched, chosen), np.isin(chosen, touched)
        rows = np.zeros((len(chosen), self._dim + 1))
        rows[there] = values[at[there]]
        rows[:, :-1] += deviation * source.standard_normal((len(chosen), self._dim))
        self.dense += deviation * source.standard_normal(len(self.dense))
        self._slots, self._values = [self._public[chosen]], [rows]

    def _summed(self) -> tuple[Slots, Doubles]:
        return summed(self._slots, self._values, self._dim + 1)
