"""From the log keyed by user to the log keyed by item: one row per event with an item and per shown item.

A derived row says where it came from: partition, offset, and a number within the record that only grows. So the item
stage drops what it has seen, whoever sent it twice.
"""

import numpy as np
import pyarrow as pa

from services.common import ids
from services.common.records import ITEM_INTERACTIONS, TICK, encode
from services.features.rows import MAX_PLACES, Ints, Rows, to_numpy

ROWS_PER_MESSAGE = 5_000


def item_messages(
    table: pa.Table, rows: Rows, origin: tuple[Ints, Ints], partition: int, partitions: int
) -> dict[int, list[bytes]]:
    """Messages for each partition of item_interactions.

    `origin`: offset and place in its message of each row of the table; `partition`: of interactions. The newest tick
    goes to every partition: their clocks go on where nothing else happens.
    """
    codes, words = rows.text("item")
    place = np.append(np.array([ids.partition_of(word, partitions) for word in words], np.int64), -1)
    target = place[codes]
    sent = np.flatnonzero(target >= 0)
    order = sent[np.argsort(target[sent], kind="stable")]
    tick = _newest_tick(table)
    out: dict[int, list[bytes]] = {}
    for number in range(partitions):
        mine = order[target[order] == number]
        if len(mine) or tick is not None:
            out[number] = _encoded(table, rows, mine, tick, origin, partition)
    return out


def _newest_tick(table: pa.Table) -> int | None:
    ticks = np.flatnonzero(to_numpy(table.column("kind")) == TICK)
    return int(ticks[-1]) if len(ticks) else None


def _encoded(
    table: pa.Table, rows: Rows, mine: Ints, tick: int | None, origin: tuple[Ints, Ints], partition: int
) -> list[bytes]:
    source, place = rows.source[mine], rows.place[mine]
    item, category = _texts(rows, "item", mine), _texts(rows, "category", mine)
    if tick is not None:
        at = int(np.searchsorted(source, tick))
        source, place = np.insert(source, at, tick), np.insert(place, at, 0)
        item, category = (pa.concat_arrays([t[:at], pa.nulls(1, pa.string()), t[at:]]) for t in (item, category))
    columns = {
        "src_partition": pa.array(np.full(len(source), partition, np.int32)),
        "src_offset": pa.array(origin[0][source]),
        "src_index": pa.array((origin[1][source] * MAX_PLACES + place).astype(np.int32)),
        "item": item,
        "category": category,
    }
    taken = table.select([f.name for f in ITEM_INTERACTIONS if f.name not in columns]).take(pa.array(source))
    arrays = [
        columns[f.name] if f.name in columns else taken.column(f.name).combine_chunks() for f in ITEM_INTERACTIONS
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=ITEM_INTERACTIONS)
    return [encode(batch.slice(start, ROWS_PER_MESSAGE)) for start in range(0, len(source), ROWS_PER_MESSAGE)]


def _texts(rows: Rows, name: str, at: Ints) -> pa.Array:
    codes, words = rows.text(name)
    picked = codes[at]
    return (
        pa.array(words, pa.string()).take(pa.array(np.maximum(picked, 0), mask=picked < 0))
        if words
        else pa.nulls(len(at), pa.string())
    )
