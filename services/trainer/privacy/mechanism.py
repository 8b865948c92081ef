"""The Gaussian mechanism of a round: clip each shopper's gradient, sum, add noise, in this order.

Abadi et al. (2016), algorithm 1: g~ = (1 / L) · (sum over i of g_i / max(1, |g_i| / C) + N(0, sigma² C² I)). The noise
belongs to the *sum* and has the variance sigma² C², so a standard deviation of sigma · C; the mean has sigma · C / L.
Texts that add N(0, sigma² C²) to the mean add L times too much, those that divide the clip norm by L before they scale
the noise too little. Here i is a shopper, not an example (as McMahan et al., 2018, do for the users of a device), g_i
is one vector over dense weights and item rows together, and L is a constant of the setting, so that dividing by it
tells nothing about how many there were.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.keyindex import Slots

Doubles = NDArray[np.float64]

SECRET_BYTES = 32


@dataclass(frozen=True)
class Contribution:
    """What one shopper adds: a gradient over dense weights [P] and over rows [n, D] of different slots [n]."""

    dense: Doubles
    slots: Slots
    rows: Doubles

    @property
    def length(self) -> float:
        """Euclidean, of all of it together."""
        return float(np.sqrt(np.sum(self.dense**2) + np.sum(self.rows**2)))

    def clipped(self, most: float) -> "Contribution":
        """No longer than `most`; nothing at all when it is not finite, as a skipped round would tell of it."""
        length = self.length
        if not np.isfinite(length):
            return Contribution(np.zeros_like(self.dense), self.slots[:0], self.rows[:0])
        factor = min(1.0, most / max(length, 1e-300))
        return Contribution(self.dense * factor, self.slots, self.rows * factor)


class RoundSum:
    """The sum of clipped contributions over dense weights [P] and over the rows [M, D] of the public items."""

    def __init__(self, dense: int, slots: Slots, dim: int) -> None:
        """`slots` [M]: of the items that have rows, each once, in ascending order."""
        self.slots = slots
        self.dense = np.zeros(dense)
        self.rows = np.zeros((len(slots), dim))

    def add(self, contribution: Contribution) -> None:
        """Take one shopper's in. Raises IndexError for a row of an item that is not public."""
        at = positions(self.slots, contribution.slots)
        self.dense += contribution.dense
        self.rows[at] += contribution.rows

    def digest(self, secret: bytes, deviation: float) -> str:
        """A keyed hash of the sum, of the items it is over and of the noise it is to get; equal only for equal bits."""
        code = hmac.new(secret, f"sum {deviation!r}".encode(), hashlib.sha256)
        for array in (self.slots, self.dense, self.rows):
            code.update(np.ascontiguousarray(array).tobytes())
        return code.hexdigest()

    def add_noise(self, source: np.random.Generator, deviation: float) -> None:
        """Independent normal noise of that standard deviation on every value: on rows that nobody touched too."""
        self.dense += deviation * source.standard_normal(len(self.dense))
        self.rows += deviation * source.standard_normal(self.rows.shape)


def positions(public: Slots, slots: Slots) -> Slots:
    """Places [n] of slots among the public ones. Raises IndexError for one that is not."""
    at = np.searchsorted(public, slots)
    if not np.array_equal(public[np.minimum(at, len(public) - 1)], slots):
        raise IndexError("a row outside the public items has a gradient")
    return at


def noise_source(secret: bytes, number: int, digest: str) -> np.random.Generator:
    """The noise of a round: a function of the secret, of its number and of what it is added to.

    The same release gets the same noise again, another sum gets other noise: the difference of two releases never
    shows the difference of their sums. Who knows the secret can take the noise off.
    """
    code = hmac.new(secret, f"noise {number} {digest}".encode(), hashlib.sha256).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(code[:16], "little")))


def summed(slots: Sequence[Slots], rows: Sequence[NDArray[Any]], dim: int) -> tuple[Slots, Doubles]:
    """Rows [n, D] of several groups, summed by slot; slots below 0 are no rows."""
    every = np.concatenate([*slots, np.zeros(0, np.int64)])
    values = np.concatenate([*rows, np.zeros((0, dim))]).astype(np.float64)
    unique, back = np.unique(every[every >= 0], return_inverse=True)
    out = np.zeros((len(unique), dim))
    np.add.at(out, back, values[every >= 0])
    return unique, out
