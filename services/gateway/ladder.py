"""The ladder of degradation (design D11) and the time each stage may take.

::

    NONE               fresh
    STALE_FEATURES     the store does not answer: what was read of this shopper lately; or what is stored lags
    NO_USER_FEATURES   nothing of the shopper is known: a model's answer without them
    LAST_RELEASE       the routed release does not answer, the other loaded one does
    POPULAR            no release answers: the caller's order, or popular items

An answer's rung is the lowest one that was needed. With no release ever routed nothing is degraded: there is
nothing yet that could be better, and such impressions train the first release.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from freshrank.v1.events_pb2 import Degradation

from services.common.errors import DeadlineExceeded
from services.gateway.shopper import Shopper

Rung = int
"""A freshrank.v1.Degradation; higher is worse."""

NONE: Rung = Degradation.DEGRADATION_NONE
STALE_FEATURES: Rung = Degradation.DEGRADATION_STALE_FEATURES
NO_USER_FEATURES: Rung = Degradation.DEGRADATION_NO_USER_FEATURES
LAST_RELEASE: Rung = Degradation.DEGRADATION_LAST_RELEASE
POPULAR: Rung = Degradation.DEGRADATION_POPULAR

FEATURES_SHARE = 0.35
"""Of the time that is left when the features are read."""
TEXT_SHARE = 0.25
"""Of the time that is left when a query's vector is asked for; without it words alone find."""
SCORE_SHARE = 0.6
"""Of the time that is left when a release is asked; the rest is for a second one and for the answer."""
RERANK_SHARE = 0.8
"""Of the time that is left when a reranker is asked, after the release; the rest is for the answer."""
LEAST_S = 0.001
"""A stage with less time than this is not begun."""


@dataclass(frozen=True)
class Budget:
    """Until when the answer must be out; seconds of a clock that only grows."""

    ends_s: float

    def left(self, now_s: float) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.ends_s - now_s)

    def share(self, now_s: float, share: float) -> float:
        """Seconds a stage may take. Raises DeadlineExceeded when that is too little to begin.

        >>> Budget(10.0).share(9.0, 0.5)
        0.5
        """
        seconds = self.left(now_s) * share
        if seconds < LEAST_S:
            raise DeadlineExceeded("no time is left for this stage")
        return seconds


def lower(first: Rung, second: Rung) -> Rung:
    """The lower of two rungs (a later stage never lifts an answer).

    >>> lower(POPULAR, NONE) == POPULAR
    True
    """
    return max(first, second)


@dataclass
class LastSeen:
    """Shoppers as they were last read, for the moments when the store does not answer."""

    limit: int = 5_000
    hold_us: int = 300_000_000
    """Older ones are worth less than a model without user features."""
    _kept: OrderedDict[tuple[str, str], tuple[int, str, Shopper]] = field(default_factory=OrderedDict)

    def put(self, user: str, session: str, schema: str, shopper: Shopper, now_us: int) -> None:
        """Remember; `schema` names the columns the features are in."""
        self._kept[user, session] = (now_us, schema, shopper)
        self._kept.move_to_end((user, session))
        if len(self._kept) > self.limit:
            self._kept.popitem(last=False)

    def get(self, user: str, session: str, schema: str, now_us: int) -> Shopper | None:
        """As last read, when that was lately and in the same columns."""
        seen = self._kept.get((user, session))
        if seen is None or seen[1] != schema or now_us - seen[0] > self.hold_us:
            return None
        return seen[2]

    def forget(self, user: str) -> None:
        """Drop what is kept of a user."""
        for key in [key for key in self._kept if key[0] == user]:
            del self._kept[key]
