"""A linear map from vectors of texts to rows: ridge regression on items that have been seen (Hoerl, Kennard, 1970).

What items' own rows have learned is regressed on what their texts say, so that an item nobody has seen begins where
items of like texts are. The penalty is chosen, and the map judged, on items that it was not fitted on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""In observations: a direction of texts that fewer items differ in than this is trusted less than half."""
HELD = 5
"""Every so many-th item is held out."""
LEAST = 50
"""Items below which nothing is fitted."""
MOST = 20_000
"""Items fitted on, those with the most evidence: a tenth of a second at 384 numbers."""


@dataclass(frozen=True)
class Map:
    """Rows = (vectors - `centre`) · `weight` + `bias`."""

    centre: Floats
    weight: Floats
    bias: Floats

    def rows(self, vectors: Floats) -> Floats:
        """Rows [n, dim] for vectors of texts [n, text dim]."""
        return np.asarray((vectors - self.centre) @ self.weight + self.bias, np.float32)


@dataclass(frozen=True)
class Fit:
    """A map, and what it is worth."""

    map: Map
    """Of all items."""
    trial: Map
    """Of the items that were not held out: what `r2` is of."""
    r2: float
    """Share of the held-out rows' variance that the trial map explains; 0 = no better than their mean, or worse."""
    penalty: float
    items: int
    held: NDArray[np.int64]
    """Places of the held-out items among those that were given."""


def fit(vectors: Floats, rows: Floats, evidence: Floats) -> Fit | None:
    """Fit on items with vectors [n, text dim], rows [n, dim] and evidence [n], which they weigh; None: too few.

    Items come in an order that does not depend on what they are, for every fifth is held out.
    """
    if len(vectors) < LEAST:
        return None
    held = np.arange(HELD - 1, len(vectors), HELD)
    rest = np.delete(np.arange(len(vectors)), held)
    tried = _Solved(vectors[rest], rows[rest], evidence[rest])
    maps = [tried.map(penalty) for penalty in PENALTIES]
    scores = [explained(each.rows(vectors[held]), rows[held], evidence[held]) for each in maps]
    best = int(np.argmax(scores))
    whole = _Solved(vectors, rows, evidence).map(PENALTIES[best])
    return Fit(whole, maps[best], scores[best], PENALTIES[best], len(vectors), held)


def explained(found: Floats, rows: Floats, evidence: Floats) -> float:
    """Weighted R² of rows [n, dim]: 1 = exact, 0 = as good as their mean; below 0 is worse.

    >>> rows = np.array([[1.0], [3.0]], np.float32)
    >>> explained(rows, rows, np.ones(2, np.float32)), explained(rows * 0 + 2, rows, np.ones(2, np.float32))
    (1.0, 0.0)
    """
    mean = np.average(rows, axis=0, weights=evidence)
    spread = float(evidence @ np.square(rows - mean).sum(axis=1))
    return 1 - float(evidence @ np.square(rows - found).sum(axis=1)) / spread if spread > 0 else 0.0


class _Solved:
    """The regression for any penalty: one decomposition of what the vectors have in common."""

    def __init__(self, vectors: Floats, rows: Floats, evidence: Floats) -> None:
        most = np.sort(np.argsort(-evidence, kind="stable")[:MOST])
        x, y, w = (each[most].astype(np.float64) for each in (vectors, rows, evidence))
        w /= w.mean()
        self._centre, self._bias = np.average(x, axis=0, weights=w), np.average(y, axis=0, weights=w)
        x, y = x - self._centre, y - self._bias
        values, self._axes = np.linalg.eigh((x * w[:, None]).T @ x)
        # In units of one observation: vectors of length 1 share their variance among their directions.
        self._values = np.maximum(values, 0)
        self._unit = float(self._values.sum()) / (len(x) * len(values))
        self._shared = self._axes.T @ ((x * w[:, None]).T @ y)

    def map(self, penalty: float) -> Map:
        """The map of least squares plus the penalty."""
        weight = self._axes @ (self._shared / (self._values + penalty * max(self._unit, 1e-12))[:, None])
        return Map(self._centre.astype(np.float32), weight.astype(np.float32), self._bias.astype(np.float32))
