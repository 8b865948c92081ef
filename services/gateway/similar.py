"""Which items are like one: by what shoppers do with them, by what their texts say, by vectors that the shop gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.gateway import retrieve

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NEAREST = 200
"""Items that each way brings in."""


class Alike(Protocol):
    """What knows what items' texts mean, or what their pictures look like."""

    def like(self, slot: int, count: int) -> tuple[Ints, Floats]:
        """Slots of the items that are nearest to an item, with cosines; none where it has no vector."""
        ...

    def cosines(self, slot: int, slots: Ints) -> Floats:
        """Cosines of some items with an item; NaN where one has no vector."""
        ...


@dataclass(frozen=True)
class Way:
    """One way of being alike, and the part of nearness that it decides."""

    alike: Alike
    share: float


def cosine(vectors: Floats, slot: int) -> Floats:
    """Of all items [n] with one."""
    lengths = np.linalg.norm(vectors, axis=1)
    near: Floats = vectors @ vectors[slot] / np.maximum(lengths * lengths[slot], 1e-12)
    return near


def blended(nearness: Floats, slot: int, keep: NDArray[np.bool_], ways: Sequence[Way]) -> Floats:
    """`nearness` [n] with a share of it from each of the ways, for the nearest of all kinds; NaN for all others.

    An item without a vector has nothing from that way. A way in which the item itself has none does not count.
    """
    found = [(way, way.alike.like(slot, 2 * NEAREST)[0]) for way in ways if way.share > 0]
    known = [(way, _kept(near, keep)) for way, near in found if len(near)]
    if not known:
        return nearness
    slots = reduce(np.union1d, [near for _, near in known], retrieve.top(np.where(keep, nearness, np.nan), NEAREST))
    rest = max(0.0, 1 - sum(way.share for way, _ in known))
    out = np.full(len(nearness), np.nan, np.float32)
    out[slots] = rest * nearness[slots]
    for way, _ in known:
        out[slots] += way.share * np.nan_to_num(way.alike.cosines(slot, slots))
    return out


def _kept(slots: Ints, keep: NDArray[np.bool_]) -> Ints:
    slots = slots[slots < len(keep)]
    return slots[keep[slots]][:NEAREST]
