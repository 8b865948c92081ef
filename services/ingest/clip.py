"""Outliers: amounts far outside what a shop usually sees are cut to a bound that is learned in log order.

Amounts are heavy-tailed, so the bound is Tukey's far fence on a logarithmic scale: Q3 + 3 x max(IQR, 1 octave)
(Tukey, Exploratory Data Analysis, 1977). Quartiles come from a histogram with eight buckets an octave, halved
as it fills, so it follows the shop and a quarter of all values would have to be forged to move it. Each change of
a bound has a version number, which stays in the record.
"""

import math
from typing import Any

import numpy as np

from services.common.stage import Snapshot

COLUMNS = ("value", "quantity", "play_seconds")
"""Amounts without a scale of their own; ratings and shares have one and are checked against it."""

_PER_OCTAVE = 8
_LOWEST_OCTAVE = -20
_BUCKETS = 60 * _PER_OCTAVE
_FENCE = 3.0
_MOST = 65_536


class Clipper:
    """Bounds per column; pure in the order of the values it is given."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._counts = {column: [0] * _BUCKETS for column in COLUMNS}
        self._fresh = dict.fromkeys(COLUMNS, 0)
        self.bounds: dict[str, float] = dict.fromkeys(COLUMNS, math.inf)
        self.version = 0

    def clip(self, column: str, value: float) -> float:
        """The value, or the bound of its column when it lies above; then learn from the value.

        >>> clipper = Clipper(every=100)
        >>> _ = [clipper.clip("value", 10.0) for _ in range(100)]
        >>> 10.0 < clipper.clip("value", 1e6) < 1000.0
        True
        """
        clipped = min(value, self.bounds[column])
        if value > 0:
            self._counts[column][_bucket(value)] += 1
            self._fresh[column] += 1
            if self._fresh[column] >= self._every:
                self._learn(column)
        return clipped

    def snapshot(self) -> Snapshot:
        """Histograms [columns, buckets] int64; bounds, versions and the values since the last bound."""
        meta: dict[str, Any] = {
            "clip.version": self.version,
            "clip.fresh": dict(self._fresh),
            "clip.bounds": {c: None if math.isinf(b) else b for c, b in self.bounds.items()},
        }
        counts = np.array([self._counts[column] for column in COLUMNS], np.int64)
        return Snapshot(0, {"clip.counts": counts}, meta)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot` gave."""
        self._counts = dict(zip(COLUMNS, snapshot.arrays["clip.counts"].tolist(), strict=True))
        self._fresh = dict(snapshot.meta["clip.fresh"])
        bounds = snapshot.meta["clip.bounds"]
        self.bounds = {c: math.inf if bounds[c] is None else float(bounds[c]) for c in COLUMNS}
        self.version = int(snapshot.meta["clip.version"])

    def _learn(self, column: str) -> None:
        self._fresh[column] = 0
        counts = np.array(self._counts[column], np.int64)
        first, third = (_quantile(counts, share) for share in (0.25, 0.75))
        bound = float(np.float32(2 ** (third + _FENCE * max(third - first, 1.0))))
        if bound != self.bounds[column]:
            self.bounds[column] = bound
            self.version += 1
        if counts.sum() > _MOST:
            self._counts[column] = (counts // 2).tolist()


def _bucket(value: float) -> int:
    place = int((math.log2(value) - _LOWEST_OCTAVE) * _PER_OCTAVE)
    return min(max(place, 0), _BUCKETS - 1)


def _quantile(counts: np.ndarray[Any, np.dtype[np.int64]], share: float) -> float:
    """Upper edge, in octaves, of the bucket that holds the quantile."""
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return (place + 1) / _PER_OCTAVE + _LOWEST_OCTAVE
