"""What is known about one shopper at one moment, however it was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Recent:
    """Three parallel lists, newest first: what the shopper touched, how, and when."""

    items: Sequence[str]
    kinds: Ints
    times: Ints
    """Microseconds since 1970."""

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class ItemMisses:
    """What the online store holds of candidates that the item table has not seen."""

    ids: Sequence[str] = ()
    views: Mapping[str, Floats] = field(default_factory=dict)
    """View -> values [n, features of the schema's view]."""
    pos: Mapping[str, Ints] = field(default_factory=dict)
    rows: Floats | None = None
    row_mask: NDArray[np.bool_] | None = None
    row_seq: Ints | None = None


@dataclass(frozen=True)
class Shopper:
    """Features, lists and row of a shopper."""

    user: Floats
    """[schema's user features]; NaN = missing."""
    pair: Floats
    """[categories asked for, schema's user x category features]; NaN = missing."""
    pair_pos: Ints
    """[categories asked for, user x category views]: fold positions; 0 = nothing stored."""
    lists: Mapping[str, Recent] = field(default_factory=dict)
    """By "view:prefix"; a list that is null or absent is not there."""
    views: tuple[str, ...] = ()
    """Views of user and session that were read, in the order of `pos`."""
    pos: tuple[int, ...] = ()
    """Fold position of each view; 0 = nothing stored."""
    times_us: tuple[int, ...] = ()
    """Event time of the newest event in each view; 0 = nothing stored."""
    row: Floats | None = None
    row_seq: int = 0
    row_time_us: int = 0
    """Event time the row has learned up to; 0 = no row."""
    misses: ItemMisses = field(default_factory=ItemMisses)

    @property
    def changed_us(self) -> int:
        """Event time of the newest event in all views; 0 = nothing is known."""
        return max(self.times_us, default=0)


@dataclass(frozen=True)
class Pairs:
    """User x category features of some categories."""

    values: Floats
    pos: Ints


def no_pairs(categories: int, features: int, views: int) -> Pairs:
    """Nothing could be read."""
    return Pairs(np.full((categories, features), np.nan, np.float32), np.zeros((categories, views), np.int64))


def unknown(users: int, pairs: Pairs) -> Shopper:
    """A shopper of whom nothing could be read: `users` features are missing."""
    return Shopper(np.full(users, np.nan, np.float32), pairs.values, pairs.pos)
