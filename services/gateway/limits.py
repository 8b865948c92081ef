"""Limits that shed load early: so many requests at once, so many per second and key."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.common.errors import Overloaded


@dataclass
class Concurrency:
    """At most `limit` requests inside at the same time."""

    limit: int
    inside: int = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for the length of the block. Raises Overloaded when all are taken.

        >>> gate = Concurrency(1)
        >>> with gate.enter():
        ...     gate.inside
        1
        """
        if self.inside >= self.limit:
            raise Overloaded(f"{self.limit} requests are being answered already")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


@dataclass
class TokenBuckets:
    """`rate` requests per second and key, bursts up to `burst`; the keys used longest ago are forgotten.

    A forgotten key starts with a full bucket, which is what an idle one would have.

    >>> buckets = TokenBuckets(rate=1, burst=1)
    >>> buckets.take("ada", 0.0); buckets.take("ada", 1.0)
    """

    rate: float
    """0 = no limit."""
    burst: float
    keys: int = 100_000
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: str, now_s: float, cost: float = 1.0) -> None:
        """Use up `cost` of the key's tokens. Raises Overloaded when they are not there."""
        if not self.rate:
            return
        left, since = self._left.pop(key, (self.burst, now_s))
        left = min(self.burst, left + max(0.0, now_s - since) * self.rate)
        granted = left >= cost
        self._left[key] = (left - cost if granted else left, now_s)
        if len(self._left) > self.keys:
            self._left.popitem(last=False)
        if not granted:
            raise Overloaded("this caller asks too often")
