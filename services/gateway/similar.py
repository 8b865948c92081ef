"""Which items are like one: by what shoppers do with them, and by what their texts say."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.gateway import retrieve

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NEAREST = 200
"""Items that either of the two brings in."""


class Alike(Protocol):
    """What knows the meaning of items' texts."""

    def like(self, slot: int, count: int) -> tuple[Ints, Floats]:
        """Slots of the items whose texts are nearest to an item's, with cosines; none where it has no vector."""
        ...

    def cosines(self, slot: int, slots: Ints) -> Floats:
        """Cosines of some items' texts with an item's; NaN where one has no vector."""
        ...


def cosine(vectors: Floats, slot: int) -> Floats:
    """Of all items [n] with one."""
    lengths = np.linalg.norm(vectors, axis=1)
    near: Floats = vectors @ vectors[slot] / np.maximum(lengths * lengths[slot], 1e-12)
    return near


def blended(nearness: Floats, slot: int, keep: NDArray[np.bool_], texts: Alike, share: float) -> Floats:
    """`nearness` [n] with `share` of it from texts, for the nearest of both kinds; NaN for all others.

    An item whose text has no vector has nothing from it. Where the item itself has none, `nearness` stays as it is.
    """
    by_text, found = texts.like(slot, 2 * NEAREST) if share > 0 else (np.zeros(0, np.int64), np.zeros(0, np.float32))
    by_text = by_text[by_text < len(nearness)]
    by_text = by_text[keep[by_text]][:NEAREST]
    if not len(found):
        return nearness
    slots = np.union1d(by_text, retrieve.top(np.where(keep, nearness, np.nan), NEAREST))
    out = np.full(len(nearness), np.nan, np.float32)
    out[slots] = (1 - share) * nearness[slots] + share * np.nan_to_num(texts.cosines(slot, slots))
    return out
