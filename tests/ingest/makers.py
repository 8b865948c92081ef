"""Records for tests of ingest: one maker per kind, every field right unless a test says otherwise."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from freshrank.v1.events_pb2 import DeadLetter, Event, EventKind, Impression, ImpressionItem, Inbound

from services.common import records
from services.common.records import Message
from services.common.stage import Snapshot
from services.ingest.clean import Rules
from services.ingest.fold import IngestFold
from services.ingest.outputs import Outputs

T0 = 1_760_000_000_000_000
"""A moment in 2025, microseconds."""

SECOND = 1_000_000
HOUR = 3600 * SECOND


def catalogue(item: str) -> tuple[str | None, float | None]:
    """A shop that knows every item but those named `new...`."""
    return (None, None) if item.startswith("new") else ("shoes", 20.0)


def event(number: int = 0, **changes: Any) -> Event:
    """A view of item-1 by user-1, one second after the one before."""
    fields: dict[str, Any] = {
        "event_id": f"event-{number}",
        "kind": EventKind.EVENT_KIND_VIEW,
        "user_id": "user-1",
        "session_id": "session-1",
        "item_id": "item-1",
        "event_time_us": T0 + number * SECOND,
    }
    return Event(**{**fields, **changes})


def impression(number: int = 0, **changes: Any) -> Impression:
    """Two items shown and one sampled."""
    fields: dict[str, Any] = {
        "impression_id": f"{number:032x}",
        "user_id": "user-1",
        "time_us": T0 + number * SECOND,
        "item_feature_ids": [7],
        "items": [
            ImpressionItem(item_id="item-1", features=[1.0], shown=True, category="shoes", propensity=1),
            ImpressionItem(item_id="item-2", features=[2.0], shown=True, category="hats", propensity=1),
            ImpressionItem(item_id="item-3", features=[3.0]),
        ],
    }
    return Impression(**{**fields, **changes})


def inbound(record: Event | Impression, received_us: int | None = None) -> Inbound:
    """A record as the gateway writes it: received when it happened."""
    if isinstance(record, Event):
        return Inbound(event=record, received_us=record.event_time_us if received_us is None else received_us)
    return Inbound(impression=record, received_us=record.time_us if received_us is None else received_us)


def message(offset: int, record: Inbound | bytes, timestamp_ms: int = 0) -> Message:
    """A record at an offset."""
    value = record if isinstance(record, bytes) else record.SerializeToString()
    return Message(offset, value, timestamp_ms)


def fold(
    rules: Rules | None = None,
    partition: int = 0,
    partitions: int = 1,
    log_time: bool = False,
    snapshot: Snapshot | None = None,
) -> IngestFold:
    """The fold of a partition over the catalogue above."""
    return IngestFold(partition, partitions, rules or Rules(), catalogue, log_time, snapshot)


def run(inbounds: Sequence[Inbound | bytes], on: IngestFold | None = None) -> Outputs:
    """Apply records at offsets from where the fold stands."""
    on = on or fold()
    return on.apply([message(on.next_offset + place, record) for place, record in enumerate(inbounds)])


def rows(*outputs: Outputs) -> list[dict[str, Any]]:
    """The rows of some outputs."""
    batches = [records.decode(value) for out in outputs for value in out.messages]
    return pa.Table.from_batches(batches, records.INTERACTIONS).to_pylist()


def letters(*outputs: Outputs) -> list[DeadLetter]:
    """The dead letters of some outputs."""
    return [DeadLetter.FromString(value) for out in outputs for value in out.dead_letters]
