"""The past onto the log: the check that nothing newer lies there, the writing, and the wait for a release."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Protocol

from freshrank.v1.events_pb2 import Inbound
from google.protobuf.message import DecodeError

from services.cli.history.batches import Batches, Record
from services.cli.history.events import Interaction
from services.cli.history.impressions import Synthesis
from services.cli.output import Progress
from services.common import records
from services.common.broker import Address
from services.common.errors import Conflict, CorruptState
from services.common.kafka import Outbox, Probe, Tail
from services.common.topics import EVENTS, INTERACTIONS

IN_FLIGHT = 2_000
"""Records sent before their acknowledgements are waited for."""

BEYOND_US = 3_600_000_000
"""The log clock is moved so far beyond the last event: the click windows of the last impressions end."""


def newest_us(bootstrap: Address) -> int:
    """Time of the newest record that lies last on a partition of events.in or interactions; 0 when both are empty."""
    found = [_event_us(value) for value in _last(bootstrap, EVENTS.name)]
    return max([*found, *(_row_us(value) for value in _last(bootstrap, INTERACTIONS.name))], default=0)


def refuse_newer(bootstrap: Address, first_us: int) -> None:
    """Raises Conflict when the log holds something newer: its clock would be past the history's labels."""
    if newest_us(bootstrap) >= first_us:
        raise Conflict(
            "the log already holds records newer than the history, or ticks of the wall clock: import into an empty "
            "system whose ingest has FRESHRANK_INGEST_TICKS=log or is not started yet, or use --force and lose labels"
        )


@dataclass(frozen=True)
class Written:
    """What lies on the log."""

    records: int
    partitions: int


def write(bootstrap: Address, rows: Iterable[Interaction], made: Synthesis, now_us: int, progress: Progress) -> Written:
    """Send everything, acknowledged. Raises PermanentError or TemporaryError as `Outbox`."""
    probe = Probe(bootstrap)
    try:
        partitions = len(probe.partitions(EVENTS.name))
    finally:
        probe.close()
    written = asyncio.run(_send(bootstrap, _records(rows, made, partitions, now_us, progress)))
    return Written(written, partitions)


def _records(
    rows: Iterable[Interaction], made: Synthesis, partitions: int, now_us: int, progress: Progress
) -> Iterator[Record]:
    batches, last_us = Batches(partitions), 0
    for number, row in enumerate(rows, 1):
        impression, event = made.take(row)
        yield from batches.add(row.user, row.time_us, impression, event)
        last_us = row.time_us
        if number % 1_000 == 0:
            progress.at(number)
    yield from batches.rest()
    yield from batches.ticks(min(now_us, last_us + BEYOND_US))


async def _send(bootstrap: Address, found: Iterator[Record]) -> int:
    outbox, sent = Outbox(bootstrap, linger_ms=5.0, ordered=False), 0
    try:
        while batch := list(islice(found, IN_FLIGHT)):
            sends = [outbox.send(EVENTS.name, r.value, partition=r.partition, key=r.key or None) for r in batch]
            await asyncio.gather(*sends)
            sent += len(batch)
    finally:
        outbox.close()
    return sent


def _last(bootstrap: Address, topic: str) -> Iterator[bytes]:
    probe = Probe(bootstrap)
    try:
        bounds = {p: probe.bounds(topic, p) for p in probe.partitions(topic)}
    finally:
        probe.close()
    tail = Tail(bootstrap, topic, {p: max(low, high - 1) for p, (low, high) in bounds.items()})
    try:
        for _, _, _, _, value in tail.until({p: high for p, (_, high) in bounds.items()}):
            yield value or b""
    finally:
        tail.close()


def _event_us(value: bytes) -> int:
    try:
        inbound = Inbound.FromString(value)
    except DecodeError:
        return 0
    return int(max(inbound.received_us, inbound.tick.time_us, inbound.event.event_time_us))


def _row_us(value: bytes) -> int:
    try:
        times = records.decode(value).column("time_us").to_pylist()
    except CorruptState:
        return 0
    return max((time_us or 0 for time_us in times), default=0)


class Serving(Protocol):
    """Who knows which release serves."""

    def champion(self) -> str:
        """Its id; empty = none."""
        ...

    def lag(self) -> str:
        """How far every stage is, for people."""
        ...


def wait_for_release(
    serving: Serving, before: str, timeout_s: float, progress: Progress, sleep: Callable[[float], Any]
) -> str:
    """The first champion that is another than `before`; empty when there is none in time."""
    ends = monotonic() + timeout_s
    while (champion := serving.champion()) in ("", before):
        if monotonic() >= ends:
            return ""
        progress.at(0, serving.lag())
        sleep(1.0)
    return champion
