"""What is planted: how large the shop is, how its traffic comes, and what changes when. All seconds are log time."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TasteShift:
    """Tastes turn: each one by the same angle, all through one rotation of the taste space.

    The cosine between a taste before and after is that of the angle, whoever has it. What a segment likes stays a
    matter of the segment, so it can be learned again, and nothing that was learned of items is wrong.
    """

    at_s: float
    degrees: float = 90.0
    share: float = 1.0
    """Of the shoppers."""


@dataclass(frozen=True)
class CatalogueChange:
    """Items go, and as many new ones come: other ids, tastes, prices and words, drawn as the first ones were."""

    at_s: float
    share: float = 0.5
    """Of the items that are offered."""


@dataclass(frozen=True)
class FeatureShift:
    """The price is served on another scale; what is true stays, and so does what shoppers do."""

    at_s: float
    factor: float = 10.0


Change = TasteShift | CatalogueChange | FeatureShift


@dataclass(frozen=True)
class Traffic:
    """How lists and clicks come: steady, or moving in waves of `period_s`."""

    lists_per_s: float = 1.0
    """Of a Poisson process."""
    delay_s: float = 60.0
    """Mean of the exponential delay from list to click."""
    swing: float = 0.0
    """How far the log-odds of all clicks go up and down."""
    delay_swing: float = 0.0
    """The same of the logarithm of the mean delay; it is longest a quarter of a period before clicks are."""
    period_s: float = 3600.0

    def log_odds(self, seconds: Floats) -> Floats:
        """What is added to the log-odds of a click.

        >>> Traffic(swing=0.5, period_s=8).log_odds(np.array([0.0, 2.0, 6.0]))
        array([ 0. ,  0.5, -0.5])
        """
        return self.swing * np.sin(2 * math.pi * seconds / self.period_s)

    def mean_delay(self, seconds: Floats) -> Floats:
        """Mean delay, in seconds, of clicks on lists of this moment.

        >>> Traffic(delay_s=60, delay_swing=np.log(2), period_s=8).mean_delay(np.array([0.0, 4.0]))
        array([120.,  30.])
        """
        return self.delay_s * np.exp(self.delay_swing * np.cos(2 * math.pi * seconds / self.period_s))


@dataclass(frozen=True)
class Plan:
    """One shop; equal plans give equal logs.

    Shops that differ in their changes or in their traffic's clicks and delays alone see the same shoppers at the same
    moments, and until the first change the very same log: two ways can be compared list by list across them.
    """

    seed: int = 0
    lists: int = 12_000
    listed: int = 10
    shoppers: int = 100
    items: int = 200
    segments: int = 6
    """Groups of shoppers with much the same taste, which the region of their context tells."""
    bias: float = -3.0
    """Log-odds of a click on an item of no match, no appeal and the usual price."""
    taste: float = 5.0
    """What a perfect match adds to the log-odds."""
    appeal: float = 0.5
    """Deviation of what an item is worth to everybody, which nothing but its clicks tells."""
    price: float = 0.5
    """What a deviation of the logarithm of the price takes off."""
    window_s: float = 600.0
    """Click window: later clicks are never labelled."""
    traffic: Traffic = field(default_factory=Traffic)
    changes: tuple[Change, ...] = ()
    """In order of time."""

    def __post_init__(self) -> None:
        """Raises InvalidInput for a shop that cannot be."""
        sizes = (self.lists, self.listed, self.shoppers, self.segments)
        _check("plan", min(sizes) >= 1 and self.items >= self.listed, "at least one of each, and items for a list")
        _check("window_s", self.window_s > 0, "must be above 0")
        traffic = self.traffic
        positive = min(traffic.lists_per_s, traffic.delay_s, traffic.period_s)
        _check("traffic", positive > 0, "rate, delay and period must be above 0")
        moments = [change.at_s for change in self.changes]
        _check("changes", moments == sorted(moments), "must be in order of time")
        for change in self.changes:
            share = 0.0 if isinstance(change, FeatureShift) else change.share
            _check("share", 0 <= share <= 1, "must lie between 0 and 1")
            _check("factor", not isinstance(change, FeatureShift) or change.factor > 0, "must be above 0")


def _check(field: str, holds: bool, detail: str) -> None:
    if not holds:
        raise InvalidInput(field, "out_of_range", detail)
