"""How often an id was seen, in fixed memory: rows are given only to ids that come back.

A count-min sketch that halves itself, after TinyLFU (Einziger, Friedman, Manes, 2017): it can only
overestimate, and what is no longer seen fades.
"""

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_DEPTH = 2
_MULTIPLIERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_TOP = 255


class FrequencySketch:
    """Counts of keys up to 255.

    >>> sketch = FrequencySketch(bits=10)
    >>> sketch.add(np.array([5, 5, 6], np.uint64))
    >>> sketch.estimate(np.array([5, 6, 7], np.uint64)).tolist()
    [2, 1, 0]
    """

    def __init__(self, bits: int = 20) -> None:
        self._bits = bits
        self.counts = np.zeros((_DEPTH, 1 << bits), np.uint8)
        self.added = 0

    def add(self, keys: Keys) -> None:
        """Count every occurrence; when twice as many were added as there are places, all counts are halved."""
        unique, times = np.unique(keys, return_counts=True)
        for row, at in zip(self.counts, self._places(unique), strict=True):
            # Different keys at one place both count: an overestimate is the price of fixed memory.
            place, back = np.unique(at, return_inverse=True)
            total = np.bincount(back, weights=times).astype(np.int64)
            row[place] = np.minimum(_TOP, row[place] + total)
        self.added += len(keys)
        if self.added >= 2 * self.counts.shape[1]:
            self.counts >>= 1
            self.added //= 2

    def estimate(self, keys: Keys) -> NDArray[np.uint8]:
        """At least how often each key was seen lately, [n]."""
        out: NDArray[np.uint8] = np.min(
            [row[at] for row, at in zip(self.counts, self._places(keys), strict=True)], axis=0
        )
        return out

    def _places(self, keys: Keys) -> list[NDArray[np.int64]]:
        shift = np.uint64(64 - self._bits)
        return [((keys * multiplier) >> shift).astype(np.int64) for multiplier in _MULTIPLIERS]
