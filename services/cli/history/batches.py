"""Records of events.in from impressions and events: few, and in time order within each partition.

Events of a moment travel together, behind the impressions they answer. The received time of a record is the time of
what it holds, so that the loop takes the past as it takes the present.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from freshrank.v1.events_pb2 import Event, EventBatch, Impression, Inbound, Tick

from services.common.ids import partition_of

MOST_EVENTS = 200
MOST_US = 5_000_000
"""Longest time between the first and the last event of a record."""


@dataclass
class _Waiting:
    impressions: list[Impression] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    first_us: int = 0
    last_us: int = 0


@dataclass(frozen=True)
class Record:
    """One record for events.in."""

    partition: int
    key: bytes
    value: bytes


class Batches:
    """Collects by partition; `add` and `rest` give what is complete."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._waiting = [_Waiting() for _ in range(partitions)]

    def add(self, user: str, time_us: int, impression: Impression | None, event: Event | None) -> Iterator[Record]:
        """Take one row of the past; in time order."""
        partition = partition_of(user, self._partitions)
        waiting = self._waiting[partition]
        if time_us - waiting.first_us > MOST_US or len(waiting.events) >= MOST_EVENTS:
            yield from self._flush(partition)
            waiting = self._waiting[partition]
        if not (waiting.impressions or waiting.events):
            waiting.first_us = time_us
        waiting.last_us = time_us
        if impression is not None:
            waiting.impressions.append(impression)
        if event is not None:
            waiting.events.append(event)

    def rest(self) -> Iterator[Record]:
        """What is left."""
        for partition in range(self._partitions):
            yield from self._flush(partition)

    def ticks(self, time_us: int) -> Iterator[Record]:
        """Records that move the log clock of every partition, so that the last impressions close."""
        value = Inbound(tick=Tick(time_us=time_us), received_us=time_us).SerializeToString()
        for partition in range(self._partitions):
            yield Record(partition, b"", value)

    def _flush(self, partition: int) -> Iterator[Record]:
        waiting, self._waiting[partition] = self._waiting[partition], _Waiting()
        for impression in waiting.impressions:
            inbound = Inbound(impression=impression, received_us=impression.time_us)
            yield _record(partition, impression.user_id, inbound)
        if waiting.events:
            batch = Inbound(batch=EventBatch(events=waiting.events), received_us=waiting.last_us)
            yield _record(partition, waiting.events[0].user_id, batch)


def _record(partition: int, user: str, inbound: Inbound) -> Record:
    return Record(partition, user.encode(), inbound.SerializeToString())
