"""Whether what was learned since the last release is like what came before: a due release may wait for more of it.

A burst of one campaign's shoppers, or an hour of a broken feed, is no sample of the shop. Waiting is bounded, because
what has changed for good looks the same and has to be served.
"""

from dataclasses import dataclass

from services.trainer.distributions import Comparison, Moved, Sample

WINDOW = 2_000
"""Impressions of either side at most."""
LEAST = 300
"""Impressions of either side at least: of fewer the index says more about chance than about the shop."""


@dataclass(frozen=True)
class HoldBounds:
    """When a release waits, and for how long."""

    psi: float = 0.0
    """Population stability index of a feature, or of the label share, above which a release waits; 0 = never."""
    seconds: float = 60.0
    """Longest wait."""


class Hold:
    """Holds a due release while its slice is unlike the window before; the time is an argument."""

    def __init__(self, bounds: HoldBounds = HoldBounds()) -> None:
        self._bounds = bounds
        self._comparison = Comparison(WINDOW, LEAST)
        self._since_us = 0
        self._why: Moved | None = None

    @property
    def why(self) -> str:
        """What holds a release now; empty when none is held."""
        return "" if self._why is None else str(self._why)

    def watch(self, sample: Sample) -> None:
        """Impressions that were learned from."""
        if self._bounds.psi:
            self._comparison.watch(sample)

    def passed(self, reason: str, now_us: int) -> str:
        """The reason of a release that may go, with what held it; empty while it waits, or when there is none."""
        if not reason:
            self._why = None
            return ""
        moved = self._comparison.moved() if self._bounds.psi else None
        like = moved is None or moved.index <= self._bounds.psi
        if self._why is None:
            if like:
                return reason
            self._since_us, self._why = now_us, moved
        elif not like:
            self._why = moved
        waited = (now_us - self._since_us) / 1e6
        return f"{reason}; held {waited:.0f} s: {self.why}" if like or waited >= self._bounds.seconds else ""

    def released(self) -> None:
        """A release was made, whoever asked for it: the slice begins anew."""
        self._why = None
        if self._bounds.psi:
            self._comparison.mark()
