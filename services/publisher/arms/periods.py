"""Rows of topic examples to units: who was shown what in which period, and what came of it."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from freshrank.v1.events_pb2 import DEGRADATION_LAST_RELEASE, DEGRADATION_STALE_FEATURES, Impression
from google.protobuf.message import DecodeError

from services.common import records
from services.common.arms import Split
from services.common.errors import CorruptState
from services.publisher.arms.comparison import Unit
from services.publisher.arms.guards import Tally

SETTLE_US = 5_000_000
"""Impressions of the first moments do not count: gateways may not know of the trial yet."""
PATIENCE_US = 300_000_000
"""A partition whose labels are so far behind the others' is not waited for."""
_COLUMNS = (
    "src_offset", "src_index", "kind", "event_time_us", "impression_id", "user", "items", "labels", "weights",
    "impression",
)  # fmt: skip
_ROBOTS = 100_000
"""Impressions of programs remembered at most until their labels come."""


class Periods:
    """Open periods of one trial; a period is closed when labels of the next one come."""

    def __init__(
        self,
        split: Split,
        reward: Mapping[str, float],
        closed: int,
        started_us: int,
        begins: Mapping[int, Mapping[int, int]],
        positions: Mapping[int, int],
    ) -> None:
        """`reward`: weight of each head's positives; `closed`: last period that is counted already.

        `begins`: where rows of the periods that were open begin, by partition; `positions`: what was read before a
        restart.
        """
        self._positions = positions
        self._split, self._reward, self._closed = split, reward, closed
        self._from_us = started_us + SETTLE_US
        self._units: dict[int, dict[str, Unit]] = {}
        self._tallies: dict[int, dict[str, Tally]] = {}
        self._begins = {period: dict(found) for period, found in begins.items()}
        self._labelled_us: dict[int, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}
        self._robots: dict[str, None] = {}
        self.late = 0
        """Impressions whose labels came after their period was closed."""
        self.strayed = 0
        """Impressions answered by another arm than their shopper's: by the reserve, or before the split was known."""
        self.unreadable = 0

    def apply(self, partition: int, offset: int, value: bytes | None, key: bytes | None) -> None:
        """Take one message in; what was taken before is dropped by its source position."""
        try:
            batch = records.decode(value or b"")
        except CorruptState:
            self.unreadable += 1
            return
        if not batch.schema.equals(records.EXAMPLES):
            self.unreadable += 1
            return
        weights = [self._reward.get(head, 0.0) for head in records.heads_of(key or b"")]
        for row in self._fresh(partition, batch):
            self._take(partition, offset, row, weights)

    def take_closed(self) -> list[int]:
        """Numbers of the periods that are over, in order; each is popped next."""
        if not self._labelled_us:
            return []
        newest = max(self._labelled_us.values())
        at_us = max(min(self._labelled_us.values()), newest - PATIENCE_US)
        over = self._split.period(at_us) - 1
        return [period for period in sorted(self._units) if period <= over]

    def pop(self, period: int) -> tuple[list[Unit], dict[str, Tally]]:
        """The units and tallies of a period that is over; it is closed from now on."""
        self._closed = max(self._closed, period)
        self._begins.pop(period, None)
        return list(self._units.pop(period).values()), self._tallies.pop(period, {})

    def begins(self) -> dict[int, dict[int, int]]:
        """Where the rows of each open period begin, by partition."""
        return {period: dict(found) for period, found in self._begins.items() if period > self._closed}

    def _fresh(self, partition: int, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        columns = [batch.column(name).to_pylist() for name in _COLUMNS]
        last = self._seen.get(partition, (-1, -1))
        for values in zip(*columns, strict=True):
            row = dict(zip(_COLUMNS, values, strict=True))
            place = (row["src_offset"], row["src_index"])
            if place > last:
                self._seen[partition] = last = place
                yield row

    def _take(self, partition: int, offset: int, row: dict[str, Any], weights: list[float]) -> None:
        time_us, name = row["event_time_us"] or 0, row["impression_id"] or ""
        if row["kind"] == records.INITIAL:
            self._begin(self._split.period(time_us), partition, offset)
            if not any(row["weights"] or ()) and self._answered(row):
                self._robots[name] = None
                while len(self._robots) > _ROBOTS:
                    del self._robots[next(iter(self._robots))]
        elif row["kind"] == records.CLOSED:
            self._labelled_us[partition] = max(time_us, self._labelled_us.get(partition, 0))
            if name in self._robots:
                del self._robots[name]
            elif time_us >= self._from_us:
                self._count(partition, offset, row, weights)
        elif row["kind"] == records.FORGET:
            for units in self._units.values():
                units.pop(row["user"] or "", None)

    def _begin(self, period: int, partition: int, offset: int) -> None:
        if period > self._closed:
            self._begins.setdefault(period, {}).setdefault(partition, offset)

    def _answered(self, row: Mapping[str, Any]) -> bool:
        """True when a release answered with features: then a weight of nothing means a program."""
        try:
            return bool(Impression.FromString(row["impression"] or b"").degradation <= DEGRADATION_STALE_FEATURES)
        except DecodeError:
            return False

    def _count(self, partition: int, offset: int, row: Mapping[str, Any], weights: list[float]) -> None:
        try:
            impression = Impression.FromString(row["impression"] or b"")
            shown = [
                (impression.items[index], bits)
                for index, bits in zip(row["items"] or (), row["labels"] or (), strict=True)
                if impression.items[index].shown
            ]
        except (DecodeError, IndexError, ValueError):
            self.unreadable += 1
            return
        time_us = row["event_time_us"]
        period = self._split.period(time_us)
        if period <= self._closed:
            self.late += offset >= self._positions.get(partition, 0)
            return
        arm = self._split.arm_of(impression.user_id, time_us)
        self.strayed += impression.arm != arm
        units = self._units.setdefault(period, {})
        if impression.user_id not in units:  # its segments are those before an arm could change them
            units[impression.user_id] = Unit(arm, _segments(impression))
        unit = units[impression.user_id]
        unit.impressions += 1
        unit.reward += sum(weight for _, bits in shown for head, weight in enumerate(weights) if bits >> head & 1)
        tally = self._tallies.setdefault(period, {}).setdefault(arm, Tally())
        items = [item.item_id for item, _ in shown]
        degraded = impression.degradation >= DEGRADATION_LAST_RELEASE
        tally.add(items, [item.category for item, _ in shown], degraded)


def _segments(impression: Impression) -> frozenset[str]:
    """The segments a comparison is looked at by: known or new shopper, placement, device."""
    found = {"returning" if impression.history else "new"}
    if impression.placement:
        found.add(f"placement {impression.placement}")
    if impression.context.device:
        found.add(f"device {impression.context.device}")
    return frozenset(found)
