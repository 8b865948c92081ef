"""The columns that travel between the services.

A message is one Arrow record batch without its schema (both ends know it), behind two bytes:
schema number and version. One message of 100 rows costs what one row costs.

Each derived row carries where it came from - `src_offset` and `src_index` of its source partition -
and for one source partition these only grow, so a consumer drops what it has seen (design D5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from services.common.errors import CorruptState

VERSION = 1

MESSAGE_BYTES = 1_048_576
"""Aim for one columnar message: far below the broker's limit, large enough to cost little a row."""

IMPRESSION, TICK, FORGET, REFORMULATION, DWELL = 100, 101, 102, 103, 104
"""Kinds of interaction beside the event kinds of freshrank.v1.EventKind. Two are on item_interactions alone. A
REFORMULATION: its query was given up for other words. A DWELL: so many `play_seconds` a visit stayed with an item that
it had clicked on in a search."""

BY_QUERY = 1 << 30
"""Bit of `src_index` on item_interactions: the row lies on the partition of its query, and is counted by that alone."""

LATE, BOT, CLIPPED, DUPLICATE = 1, 2, 4, 8
"""Bits of an interaction's verdict, decided once by ingest. DUPLICATE rows are never emitted, only counted."""

_f32, _i64, _i32, _str, _u8 = pa.float32(), pa.int64(), pa.int32(), pa.string(), pa.uint8()

INTERACTIONS = pa.schema(
    [
        ("src_offset", _i64),  # offset in events.in, same partition; -1 for ticks made by ingest
        ("src_index", _i32),
        ("kind", _u8),  # EventKind, IMPRESSION, TICK or FORGET
        ("time_us", _i64),  # event time; a tick's log time
        ("received_us", _i64),  # when the gateway took it (the start of freshness)
        ("user", _str),
        ("session", _str),
        ("item", _str),  # null: none
        ("category", _str),  # of the item, stamped by ingest; null: not known
        ("event_id", _str),
        ("value", _f32),  # null: missing, never zero
        ("quantity", _f32),
        ("price", _f32),  # catalogue price of the item when it happened
        ("rating", _f32),
        ("play_seconds", _f32),
        ("play_share", _f32),
        ("query", _str),
        ("region", _str),
        ("device", _str),
        ("platform", _str),
        ("token", _str),  # attribution token; null: none
        ("verdict", _u8),
        ("clip_version", _i32),
        ("impression_items", pa.list_(_str)),  # shown items of an impression, in order; else null
        ("impression_categories", pa.list_(_str)),
        ("impression", pa.binary()),  # serialized freshrank.v1.Impression; else null
    ]
)

ITEM_INTERACTIONS = pa.schema(
    [
        ("src_partition", _i32),  # of interactions
        ("src_offset", _i64),
        ("src_index", _i32),
        ("kind", _u8),
        ("time_us", _i64),
        ("received_us", _i64),
        ("item", _str),  # null for ticks
        ("user", _str),
        ("session", _str),
        ("category", _str),
        ("value", _f32),
        ("quantity", _f32),
        ("price", _f32),
        ("rating", _f32),
        ("play_seconds", _f32),
        ("play_share", _f32),
        ("query", _str),
        ("region", _str),
        ("device", _str),
        ("platform", _str),
        ("verdict", _u8),
    ]
)

INITIAL, FLIP, CLOSED = 0, 1, 2
"""Kinds of example: label 0 at serving, the flip of a head, the final labels for evaluation (weight 0). A FORGET
has no items: its user is forgotten with everything before `event_time_us`."""

EXAMPLES = pa.schema(
    [
        ("src_offset", _i64),  # offset in interactions, same partition
        ("src_index", _i32),
        ("kind", _u8),
        ("time_us", _i64),  # log time at which the example was made
        ("event_time_us", _i64),  # of the impression (INITIAL, CLOSED) or of the action (FLIP)
        ("received_us", _i64),  # of what caused it
        ("impression_id", _str),
        ("user", _str),
        ("items", pa.list_(pa.int16())),  # indexes into impression.items that this row is about
        ("labels", pa.list_(_u8)),  # per item in `items`: bit h set = head h positive (FLIP: the flipped heads)
        ("weights", pa.list_(_f32)),  # per item: 1 / sampling rate; 0 = joined and counted, not trained
        (
            "impression",
            pa.binary(),
        ),  # serialized freshrank.v1.Impression (whole; FLIP: only the items in question, `items` index into it)
    ]
)

SCHEMAS = {1: INTERACTIONS, 2: ITEM_INTERACTIONS, 3: EXAMPLES}


@dataclass(frozen=True)
class Message:
    """One Kafka message as a stage sees it."""

    offset: int
    value: bytes
    timestamp_ms: int = 0
    trace: bytes = b""
    """The span that sent it, as W3C Trace Context has it; empty when nobody looks on."""


def heads_key(heads: Sequence[str]) -> bytes:
    """Kafka key of messages of EXAMPLES: what their label bits mean; a trainer learns from its own heads only.

    >>> heads_key(["click", "purchase"])
    b'click,purchase'
    """
    return ",".join(heads).encode()


def heads_of(key: bytes) -> tuple[str, ...]:
    """Heads that a key names; none when it is empty.

    >>> heads_of(b"click,purchase"), heads_of(b"")
    (('click', 'purchase'), ())
    """
    return tuple(key.decode(errors="replace").split(",")) if key else ()


def encode(batch: pa.RecordBatch) -> bytes:
    """Serialize a batch of one of the schemas above.

    >>> batch = batch_of(EXAMPLES, {"src_offset": [7]})
    >>> decode(encode(batch)).column("src_offset")[0].as_py()
    7
    """
    for number, schema in SCHEMAS.items():
        if batch.schema.equals(schema):
            body: bytes = batch.serialize().to_pybytes()
            return bytes((number, VERSION)) + body
    raise CorruptState(f"no schema for columns {batch.schema.names}")


def encode_split(batch: pa.RecordBatch, most: int = MESSAGE_BYTES) -> list[bytes]:
    """Serialize a batch as several messages in the order of its rows, each of about `most` bytes or one row.

    >>> len(encode_split(batch_of(EXAMPLES, {"impression": [b"x" * 900, b"y" * 900]}), 1000))
    2
    """
    if batch.num_rows > 1 and batch.nbytes > most:
        half = batch.num_rows // 2
        return [*encode_split(batch.slice(0, half), most), *encode_split(batch.slice(half), most)]
    return [encode(batch)]


def decode(value: bytes) -> pa.RecordBatch:
    """Read a batch back without copying. Raises CorruptState when the bytes are not one of ours."""
    if len(value) < 2 or value[0] not in SCHEMAS or value[1] != VERSION:
        raise CorruptState("not a columnar message of this version")
    try:
        return pa.ipc.read_record_batch(pa.py_buffer(value).slice(2), SCHEMAS[value[0]])
    except (pa.ArrowException, EOFError, OSError) as error:
        raise CorruptState(f"columnar message: {error}") from error


def batch_of(schema: pa.Schema, columns: dict[str, object]) -> pa.RecordBatch:
    """Build a batch from some columns; the ones not given are null."""
    length = len(next(iter(columns.values())))  # type: ignore[arg-type]
    arrays = [pa.array(columns[f.name], type=f.type) if f.name in columns else pa.nulls(length, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
