"""The log as the oracle reads it: its own statement of the columns, and what a stage must drop."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, TopicPartition
from freshrank.v1 import events_pb2

IMPRESSION, TICK, FORGET, REFORMULATION, DWELL = 100, 101, 102, 103, 104
PLACES = 1024
"""Places of a record's rows on item_interactions, the last digits of src_index."""

BOT = 2
BY_QUERY = 1 << 30
"""Bit of src_index on item_interactions: the row is there for its query, not for its item."""
KINDS = {name.removeprefix("EVENT_KIND_").lower(): number for name, number in events_pb2.EventKind.items()}
KINDS |= {"impression": IMPRESSION, "reformulation": REFORMULATION, "dwell": DWELL}

TEXT = ("user", "session", "item", "category", "event_id", "query", "region", "device", "platform", "token")
REAL = ("value", "quantity", "price", "rating", "play_seconds", "play_share")
_list = pa.list_(pa.string())
INTERACTIONS = pa.schema(
    [("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()), ("time_us", pa.int64()),
     ("received_us", pa.int64()), *[(n, pa.string()) for n in TEXT[:5]], *[(n, pa.float32()) for n in REAL],
     *[(n, pa.string()) for n in TEXT[5:]], ("verdict", pa.uint8()), ("clip_version", pa.int32()),
     ("impression_items", _list), ("impression_categories", _list), ("impression", pa.binary())]
)  # fmt: skip
ITEM_INTERACTIONS = pa.schema(
    [("src_partition", pa.int32()), ("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()),
     ("time_us", pa.int64()), ("received_us", pa.int64()), ("item", pa.string()), ("user", pa.string()),
     ("session", pa.string()), ("category", pa.string()), *[(n, pa.float32()) for n in REAL],
     *[(n, pa.string()) for n in ("query", "region", "device", "platform")], ("verdict", pa.uint8())]
)  # fmt: skip
EXAMPLES = pa.schema(
    [("src_offset", pa.int64()), ("src_index", pa.int32()), ("kind", pa.uint8()), ("time_us", pa.int64()),
     ("event_time_us", pa.int64()), ("received_us", pa.int64()), ("impression_id", pa.string()),
     ("user", pa.string()), ("items", pa.list_(pa.int16())), ("labels", pa.list_(pa.uint8())),
     ("weights", pa.list_(pa.float32())), ("impression", pa.binary())]
)  # fmt: skip
_SCHEMAS = {1: INTERACTIONS, 2: ITEM_INTERACTIONS, 3: EXAMPLES}

_TRIES = 20

Row = dict[str, Any]
Brokers = str | Mapping[str, str]
"""host:port, or the client's settings where more is needed."""


def read(brokers: Brokers, topic: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Every record of a topic as (partition, offset, timestamp in ms, value), partition by partition."""
    where = {"bootstrap.servers": brokers} if isinstance(brokers, str) else brokers
    consumer = Consumer({**where, "group.id": "oracle", "enable.auto.commit": False})
    try:
        for partition in sorted(consumer.list_topics(topic, 10).topics[topic].partitions):
            low, end = _bounds(consumer, TopicPartition(topic, partition))
            consumer.assign([TopicPartition(topic, partition, low)])
            at = low
            while at < end:
                for message in consumer.consume(min(1000, end - at), 1.0):
                    if message.error():
                        raise SystemExit(f"reading {topic}: {message.error()}")
                    at = message.offset() + 1
                    yield partition, message.offset(), message.timestamp()[1], message.value() or b""
    finally:
        consumer.close()


def _bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """First offset and the next one; a client that has just come knows no partition for a moment."""
    for _ in range(_TRIES):
        try:
            found: tuple[int, int] = consumer.get_watermark_offsets(place, timeout=10)
            return found
        except KafkaException as error:
            failure = error
            time.sleep(0.5)
    raise SystemExit(f"reading {place.topic}: {failure}")


def rows(brokers: Brokers, topic: str) -> Iterator[Row]:
    """The rows of a columnar topic, each with partition `p` and offset `o` of its message."""
    for partition, offset, _, value in read(brokers, topic):
        batch = pa.ipc.read_record_batch(pa.py_buffer(value).slice(2), _SCHEMAS[value[0]])
        for row in batch.to_pylist():
            yield {"p": partition, "o": offset, **row}


def unwrap(inbound: events_pb2.Inbound) -> Iterator[events_pb2.Event | events_pb2.Impression]:
    """The events and impressions of one inbound record."""
    which = inbound.WhichOneof("record")
    if which == "event":
        yield inbound.event
    elif which == "batch":
        yield from inbound.batch.events
    elif which == "impression":
        yield inbound.impression
    elif which == "forwarded":
        yield from unwrap(inbound.forwarded.inbound)


def in_order(log: Iterable[Row], source: str = "") -> list[Row]:
    """Rows in log order without the ones a stage must drop: at or below the source pair seen last."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    out = []
    for row in log:
        key = (row["p"], row.get(source, 0))
        pair = (row["src_offset"], row["src_index"])
        if row["src_offset"] >= 0:
            if pair <= last.get(key, (-1, -1)):
                continue
            last[key] = pair
        out.append(row)
    return out
