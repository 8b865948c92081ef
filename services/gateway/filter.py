"""What may not be answered: gone, out of stock, excluded, already bought, of another category."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


def available(records: NDArray[Any]) -> Mask:
    """In the catalogue, and in stock where stock is counted."""
    mask: Mask = (records["live"] == 1) & (records["stock"] != 0)
    return mask


def in_categories(records: NDArray[Any], codes: Sequence[int]) -> Mask:
    """In at least one of the categories (codes; -1 = a category nobody has)."""
    wanted = np.array([code for code in codes if code >= 0], np.int32)
    return np.asarray(np.isin(records["categories"], wanted).any(axis=1), np.bool_)


def without(keep: Mask, slots: Ints) -> Mask:
    """A copy that leaves some slots out; -1 and slots that came later are no matter."""
    kept = keep.copy()
    kept[slots[(slots >= 0) & (slots < len(kept))]] = False
    return kept
