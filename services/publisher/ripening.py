"""Labels of impressions before their click window ends: most clicks come soon, and a gate cannot wait for the last.

An impression is *ripe* when the log clock is so far beyond it; it is then taken with the labels it has. Both models
of a comparison see the same labels, so what is still missing favours neither. Final labels (CLOSED) are taken
where they come first.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from freshrank.v1.events_pb2 import Impression

from services.publisher.replay import Closed

_REMEMBERED = 200_000
"""Ids of impressions already taken: their CLOSED rows come minutes later and say little new."""


@dataclass
class _Waiting:
    impression: Impression
    items: tuple[int, ...]
    heads: tuple[str, ...]
    labels: dict[str, int] = field(default_factory=dict)


class Ripening:
    """One partition's impressions between INITIAL and ripe; at most `limit` wait, the oldest are taken early."""

    def __init__(self, ripe_us: int, limit: int) -> None:
        self._ripe_us, self._limit = ripe_us, limit
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._clock_us = 0

    def opened(self, impression: Impression, items: tuple[int, ...], heads: tuple[str, ...] = ()) -> None:
        """An impression appeared; `items` are the shown ones that it has labels for, by these heads."""
        if self._ripe_us and items and impression.impression_id not in self._taken:
            self._waiting.setdefault(impression.impression_id, _Waiting(impression, items, heads))

    def flipped(self, impression_id: str, item: str, bits: int) -> None:
        """Heads of an item turned positive."""
        waiting = self._waiting.get(impression_id)
        if waiting is not None:
            waiting.labels[item] = waiting.labels.get(item, 0) | bits

    def closed(self, impression_id: str) -> bool:
        """Final labels came; True when they are the first to be taken of this impression."""
        self._waiting.pop(impression_id, None)
        return self._take(impression_id)

    def forget(self, user: str, before_us: int) -> None:
        """Drop what waits of a shopper and is older than a time."""
        for identity, waiting in list(self._waiting.items()):
            if waiting.impression.user_id == user and waiting.impression.time_us < before_us:
                del self._waiting[identity]

    def ripe(self, clock_us: int) -> Iterator[Closed]:
        """Those that have become ripe by this time of the partition's log clock."""
        self._clock_us = max(self._clock_us, clock_us)
        while self._waiting:
            first = next(iter(self._waiting.values()))
            if first.impression.time_us + self._ripe_us > self._clock_us and len(self._waiting) <= self._limit:
                return
            self._waiting.popitem(last=False)
            if self._take(first.impression.impression_id):
                labels = tuple(first.labels.get(first.impression.items[k].item_id, 0) for k in first.items)
                yield Closed(first.impression, first.items, labels, first.heads)

    def _take(self, impression_id: str) -> bool:
        if impression_id in self._taken:
            return False
        self._taken[impression_id] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        return True
