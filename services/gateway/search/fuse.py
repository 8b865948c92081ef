"""Several orders of the same items as one: reciprocal rank fusion (Cormack et al., 2009)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

K = 60.0
"""How little the first places stand out; the paper's value."""

Ints = NDArray[np.int64]


def fused(orders: Sequence[Ints], weights: Sequence[float] | None = None) -> tuple[Ints, NDArray[np.float64]]:
    """Slots by the sum of weight / (K + place) over the orders, best first, with that sum.

    >>> fused([np.array([7, 8]), np.array([8, 9])])[0]
    array([8, 7, 9])
    """
    given = [1.0] * len(orders) if weights is None else weights
    slots = np.concatenate([np.zeros(0, np.int64), *orders])
    shares = [weight / (K + 1 + np.arange(len(order))) for order, weight in zip(orders, given, strict=True)]
    unique, first, place = np.unique(slots, return_index=True, return_inverse=True)
    score = np.bincount(place, weights=np.concatenate([np.zeros(0), *shares]), minlength=len(unique))
    best = np.lexsort((first, -score))
    return unique[best].astype(np.int64), score[best].astype(np.float64)
