"""What is known about one shopper at one moment, however it was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from services.gateway.schema import QUERY, Schema

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
    """[categories asked for, schema's features of pairs with a category]; NaN = missing."""
    pair_pos: Ints
    """[categories asked for, views of such pairs]: fold positions; 0 = nothing stored."""
    lists: Mapping[str, Recent] = field(default_factory=dict)
    """By "view:prefix"; a list that is null or absent is not there."""
    views: tuple[str, ...] = ()
    """Views of user, session and query that were read, in the order of `pos`."""
    pos: tuple[int, ...] = ()
    """Fold position of each view; 0 = nothing stored."""
    times_us: tuple[int, ...] = ()
    """Event time of the newest event in each view; 0 = nothing stored."""
    row: Floats | None = None
    row_seq: int = 0
    row_time_us: int = 0
    """Event time the row has learned up to; 0 = no row."""
    misses: ItemMisses = field(default_factory=ItemMisses)
    of_query: frozenset[str] = frozenset()
    """Those of `views` that are about what is searched for, not about the shopper."""
    asked: "Pairs | None" = None
    """Of each candidate and what is searched for; None = nothing is, or it was not read."""

    @property
    def changed_us(self) -> int:
        """Event time of the newest event in the shopper's own views; 0 = nothing is known."""
        pairs = zip(self.views, self.times_us, strict=True)
        return max((time_us for view, time_us in pairs if view not in self.of_query), default=0)


@dataclass(frozen=True)
class Pairs:
    """Features of pairs: of the shopper, or what is searched for, with some categories or items."""

    values: Floats
    pos: Ints


def no_pairs(categories: int, features: int, views: int) -> Pairs:
    """Nothing could be read."""
    return Pairs(np.full((categories, features), np.nan, np.float32), np.zeros((categories, views), np.int64))


def unknown(users: int, pairs: Pairs) -> Shopper:
    """A shopper of whom nothing could be read: `users` features are missing."""
    return Shopper(np.full(users, np.nan, np.float32), pairs.values, pairs.pos)


def without_query(shopper: Shopper, schema: Schema) -> Shopper:
    """The same shopper who searches for nothing: another query's features would say nothing of the next one."""
    if not shopper.of_query and shopper.asked is None:
        return shopper
    user = shopper.user.copy()
    for view in schema.user_views:
        if view.join_keys == QUERY:
            user[view.places] = np.nan
    kept = [place for place, view in enumerate(shopper.views) if view not in shopper.of_query]
    return replace(
        shopper,
        user=user,
        views=tuple(shopper.views[place] for place in kept),
        pos=tuple(shopper.pos[place] for place in kept),
        times_us=tuple(shopper.times_us[place] for place in kept),
        of_query=frozenset(),
        asked=None,
    )
