"""From the log keyed by user to the log keyed by item: one row per event with an item and per shown item, and one more
of each that has a query, on the partition of the query.

A derived row says where it came from: partition, offset, and a number within the record that only grows. So the item
stage drops what it has seen, whoever sent it twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from services.common import ids
from services.common.records import BY_QUERY, DWELL, ITEM_INTERACTIONS, REFORMULATION, TICK, encode_split
from services.features.rows import MAX_PLACES, Ints, Rows, to_numpy
from services.text.normal import MOST_LETTERS

ROWS_PER_MESSAGE = 5_000

_PLACE = {DWELL: MAX_PLACES - 2, REFORMULATION: MAX_PLACES - 1}
"""Of a row that is added, within its record: where no shown item is."""
_ACTED = ("value", "quantity", "price", "rating", "play_share")
"""What the row that an added one follows from says of itself alone."""


@dataclass(frozen=True)
class Added:
    """A row by query alone that follows from a row of the log."""

    row: int
    """Of the table."""
    kind: int
    query: str
    item: str | None = None
    category: str | None = None
    seconds: float | None = None


def item_messages(
    table: pa.Table,
    rows: Rows,
    origin: tuple[Ints, Ints],
    partition: int,
    partitions: int,
    added: Sequence[Added] = (),
) -> dict[int, list[bytes]]:
    """Messages for each partition of item_interactions.

    `origin`: offset and place in its message of each row of the table; `partition`: of interactions. The newest tick
    goes to every partition: their clocks go on where nothing else happens. `added`: at most one of a kind for each row.
    """
    target, at, mark = _targets(table, rows, origin[0], partitions)
    if not len(target):
        return {}
    batch = _derived(table, rows, at, mark, origin, partition)
    if added:
        more = _added(table, added, origin, partition)
        target = np.append(target, [ids.partition_of(one.query, partitions) for one in added])
        batch = pa.Table.from_batches([batch, more]).combine_chunks().to_batches()[0]
        order = np.lexsort((to_numpy(batch.column("src_index")), to_numpy(batch.column("src_offset")), target))
        target, batch = target[order], batch.take(pa.array(order))
    ends = np.searchsorted(target, np.arange(partitions + 1)).tolist()
    return {
        number: [message for part in _cut(batch, start, end) for message in encode_split(part)]
        for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False))
        if end > start
    }


def _targets(table: pa.Table, rows: Rows, offset: Ints, partitions: int) -> tuple[Ints, Ints, Ints]:
    """Target partition, row and mark (BY_QUERY or 0) of each derived row, in the order of targets and of positions.

    A row of -1 - n is row n of the table itself: the tick.
    """
    at, target = _homes(rows, "item", partitions)
    asked, theirs = _homes(rows, "query", partitions, MOST_LETTERS)
    ticks = np.flatnonzero(to_numpy(table.column("kind")) == TICK)[-1:]
    every = np.repeat(ticks, partitions)
    target = np.concatenate([target, theirs, np.arange(len(every))])
    mark = np.repeat([0, BY_QUERY, 0], [len(at), len(asked), len(every)])
    source = np.concatenate([rows.source[at], rows.source[asked], every])
    at = np.concatenate([at, asked, -1 - every])
    order = np.lexsort((source, mark, offset[source], target))  # stable: places of one impression keep their order
    return target[order], at[order], mark[order]


def _homes(rows: Rows, column: str, partitions: int, letters: int = 2**31) -> tuple[Ints, Ints]:
    """Rows that have a text of at most so many letters in a column, and the partition of it."""
    codes, words = rows.text(column)
    homes = [ids.partition_of(word, partitions) if len(word) <= letters else -1 for word in words]
    target = np.array([*homes, -1], np.int64)[codes]
    at = np.flatnonzero(target >= 0)
    return at, target[at]


def _derived(
    table: pa.Table, rows: Rows, at: Ints, mark: Ints, origin: tuple[Ints, Ints], partition: int
) -> pa.RecordBatch:
    event = at >= 0
    inside = np.where(event, at, rows.length)  # one beyond: what is appended for the tick
    source = np.where(event, np.append(rows.source, 0)[inside], -1 - at)
    place = np.append(rows.place, 0)[inside]
    columns = {
        "src_partition": pa.array(np.full(len(at), partition, np.int32)),
        "src_offset": pa.array(origin[0][source]),
        "src_index": pa.array((origin[1][source] * MAX_PLACES + place + mark).astype(np.int32)),
        "item": _texts(rows, "item", at),
        "category": _texts(rows, "category", at),
    }
    return _batch(columns, table, source)


def _added(table: pa.Table, added: Sequence[Added], origin: tuple[Ints, Ints], partition: int) -> pa.RecordBatch:
    """The rows that are added: who, when and where are those of the rows that they follow from."""
    source = np.array([one.row for one in added], np.int64)
    place = origin[1][source] * MAX_PLACES + np.array([_PLACE[one.kind] for one in added]) + BY_QUERY
    columns = {
        "src_partition": pa.array(np.full(len(source), partition, np.int32)),
        "src_offset": pa.array(origin[0][source]),
        "src_index": pa.array(place.astype(np.int32)),
        "kind": pa.array([one.kind for one in added], pa.uint8()),
        "item": pa.array([one.item for one in added], pa.string()),
        "category": pa.array([one.category for one in added], pa.string()),
        "query": pa.array([one.query for one in added], pa.string()),
        "play_seconds": pa.array([one.seconds for one in added], pa.float32()),
    } | {name: pa.nulls(len(source), pa.float32()) for name in _ACTED}
    return _batch(columns, table, source)


def _batch(columns: Mapping[str, pa.Array], table: pa.Table, source: Ints) -> pa.RecordBatch:
    """Rows of some columns; the others are those of the rows of the table that they come from."""
    taken = table.select([f.name for f in ITEM_INTERACTIONS if f.name not in columns]).take(pa.array(source))
    arrays = [
        columns[f.name] if f.name in columns else taken.column(f.name).combine_chunks() for f in ITEM_INTERACTIONS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=ITEM_INTERACTIONS)


def _cut(batch: pa.RecordBatch, start: int, end: int) -> list[pa.RecordBatch]:
    return [batch.slice(at, min(ROWS_PER_MESSAGE, end - at)) for at in range(start, end, ROWS_PER_MESSAGE)]


def _texts(rows: Rows, name: str, at: Ints) -> pa.Array:
    codes, words = rows.text(name)
    picked = np.append(codes, -1)[np.where(at >= 0, at, rows.length)]
    return pa.array(words or [""], pa.string()).take(pa.array(np.maximum(picked, 0), mask=picked < 0))
