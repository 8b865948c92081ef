"""Messages of examples as rows that can be sealed, and back."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from services.common import sealed
from services.common.errors import CorruptState
from services.common.keytable import KeyTable, Place, is_sealed
from services.common.records import EXAMPLES, decode, encode

ORDER = sealed.Order("offset", "index")


def rows_of(offsets: Sequence[int], values: Sequence[bytes]) -> pa.Table:
    """Rows of messages, with where each was. What cannot be read belongs to nobody and is left out."""
    found = [(offset, batch) for offset, value in zip(offsets, values, strict=True) if (batch := _read(value))]
    lengths = [batch.num_rows for _, batch in found]
    rows = pa.Table.from_batches([batch for _, batch in found], EXAMPLES)
    places = [place for length in lengths for place in range(length)]
    offset = np.repeat(np.array([offset for offset, _ in found], np.int64), lengths)
    at = {ORDER.offset: pa.array(offset, pa.int64()), ORDER.place: pa.array(places, pa.int64())}
    for name, column in at.items():
        rows = rows.append_column(name, column)
    return rows


def messages_of(rows: pa.Table) -> list[tuple[int, bytes]]:
    """Messages of the rows that are left of each, with their offsets."""
    if not rows.num_rows:
        return []
    batch = rows.select(EXAMPLES.names).combine_chunks().to_batches()[0]
    offsets = rows[ORDER.offset].to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(offsets)) + 1).tolist()]
    ends = [*starts[1:], len(offsets)]
    return [(int(offsets[s]), encode(batch.slice(s, e - s))) for s, e in zip(starts, ends, strict=True)]


def opened(table: pa.Table, keys: KeyTable | None) -> sealed.Opened:
    """Rows of a file of either form. Raises CorruptState."""
    if is_sealed(table.schema):
        return sealed.unseal(table, ORDER, keys)
    return sealed.Opened(rows_of(table["offset"].to_pylist(), table["value"].to_pylist()))


def forgets(messages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, Place]]:
    """Who is forgotten by messages, and where."""
    for offset, value in messages:
        if batch := _read(value):
            yield from ((shopper, (offset, place)) for shopper, place in sealed.forgets(batch))


def _read(value: bytes) -> pa.RecordBatch | None:
    try:
        batch = decode(value)
    except CorruptState:
        return None
    return batch if batch.num_rows and batch.schema == EXAMPLES else None
