"""Rows of shoppers in Parquet, each shopper's under a key of its own: docs/decisions/0015.

A sealed file holds a group for each shopper: the id of the key, and the rows as an Arrow batch, compressed, then
AES-256-GCM. Where a row was in the log is sealed with it; a reader puts rows back into that order.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.common.errors import CorruptState
from services.common.keytable import COLUMNS, KeyTable, Place, is_sealed
from services.common.records import FORGET

_SCHEMA = pa.schema(zip(COLUMNS, (pa.binary(16), pa.binary()), strict=True))
_ROWS = b"freshrank.rows"
"""Key of a file's metadata: the columns of its rows."""
_NONCE, _LENGTH = 12, 4


@dataclass(frozen=True)
class Order:
    """Columns that say where a row was in its partition of the log."""

    offset: str
    place: str
    """In its message."""


FEATURES = Order("_pos", "_row")
"""Of the archive of emitted feature rows."""

LOG = Order("log_offset", "log_index")
"""Of the archive of the cleaned log."""


@dataclass(frozen=True)
class Opened:
    """What a file says."""

    rows: pa.Table
    """In the order of the log."""
    lost: int = 0
    """Groups that no key opens."""


def read(path: Path, order: Order, keys: KeyTable | None) -> Opened:
    """The rows of a file of either form. Raises CorruptState when it cannot be read."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptState(f"{path.name}: {error}") from error
    return unseal(table, order, keys) if is_sealed(table.schema) else Opened(table)


def seal(rows: pa.Table, partition: int, order: Order, keys: KeyTable, owner: str = "user") -> pa.Table:
    """Groups of rows of one partition, by the column `owner`. Keys that were made are on disk when this returns."""
    groups = list(_grouped(rows, order, owner))
    taken = keys.take(partition, {shopper: _place(group, order) for shopper, group in groups})
    sealed = sorted((taken[shopper][0], _sealed(group, *taken[shopper])) for shopper, group in groups)
    columns = [[id for id, _ in sealed], [text for _, text in sealed]]
    return pa.table(
        columns, schema=_SCHEMA.with_metadata({_ROWS: rows.schema.remove_metadata().serialize().to_pybytes()})
    )


def seal_log(rows: pa.Table, partition: int, order: Order, keys: KeyTable) -> pa.Table:
    """The same of rows with FORGET rows among them: these delete keys, and what lies before them is left out."""
    rows, forgotten = _remembered(rows, order)
    for shopper, place in forgotten.items():
        keys.forget(shopper, partition, place)
    return seal(rows, partition, order, keys)


def unseal(table: pa.Table, order: Order, keys: KeyTable | None) -> Opened:
    """Rows of groups, as far as there are keys. Raises CorruptState for a group that its key does not open."""
    ids, texts = table["key"].to_pylist(), table["sealed"].to_pylist()
    found = keys.find(ids) if keys is not None else {}
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[_ROWS]))
        batches = [_opened(text, id, found[id], schema) for id, text in zip(ids, texts, strict=True) if id in found]
    except (InvalidTag, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise CorruptState(f"a sealed group is damaged: {type(error).__name__} {error}") from error
    rows = pa.Table.from_batches(batches, schema).sort_by([(order.offset, "ascending"), (order.place, "ascending")])
    return Opened(rows, len(ids) - len(batches))


def forgets(batch: pa.RecordBatch) -> Iterator[tuple[str, int]]:
    """Who is forgotten by a message, and at which place in it."""
    for place in np.flatnonzero(batch.column("kind").to_numpy(zero_copy_only=False) == FORGET).tolist():
        yield batch.column("user")[place].as_py() or "", place


def _remembered(rows: pa.Table, order: Order) -> tuple[pa.Table, dict[str, Place]]:
    """Rows of who was not forgotten after them, without the FORGET rows; and when each was."""
    told = rows.filter(pc.equal(rows["kind"], FORGET)).select(["user", order.offset, order.place]).to_pylist()
    forgotten: dict[str, Place] = {}
    for row in told:
        shopper, place = row["user"] or "", (row[order.offset], row[order.place])
        forgotten[shopper] = max(place, forgotten.get(shopper, place))
    keep = pc.not_equal(rows["kind"], FORGET)
    for shopper, (offset, at) in forgotten.items():
        earlier = pc.or_(
            pc.less(rows[order.offset], offset),
            pc.and_(pc.equal(rows[order.offset], offset), pc.less(rows[order.place], at)),
        )
        keep = pc.and_not(keep, pc.and_(earlier, pc.equal(_owners(rows, "user"), shopper)))
    return (rows.filter(keep) if forgotten else rows), forgotten


def _owners(rows: pa.Table, owner: str) -> pa.ChunkedArray:
    """Whose each row is; rows of nobody are under one key that nobody deletes."""
    return pc.fill_null(rows[owner], "")


def _grouped(rows: pa.Table, order: Order, owner: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Rows of each shopper, in the order of the log."""
    if not rows.num_rows:
        return
    by = pa.table({"user": _owners(rows, owner), "offset": rows[order.offset], "place": rows[order.place]})
    at = pc.sort_indices(by, [(name, "ascending") for name in by.column_names])
    batch = rows.take(at).combine_chunks().to_batches()[0]
    owners = by["user"].combine_chunks().take(at)
    codes = owners.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        yield owners[start].as_py(), batch.slice(start, end - start)


def _place(group: pa.RecordBatch, order: Order) -> Place:
    return group.column(order.offset)[0].as_py(), group.column(order.place)[0].as_py()


def _sealed(group: pa.RecordBatch, id: bytes, key: bytes) -> bytes:
    plain, nonce = group.serialize(), os.urandom(_NONCE)
    length = plain.size.to_bytes(_LENGTH, "little")
    return nonce + AESGCM(key).encrypt(nonce, length + _zstd().compress(plain, asbytes=True), id)


def _opened(text: bytes, id: bytes, key: bytes, schema: pa.Schema) -> pa.RecordBatch:
    plain = AESGCM(key).decrypt(text[:_NONCE], text[_NONCE:], id)
    length = int.from_bytes(plain[:_LENGTH], "little")
    return pa.ipc.read_record_batch(_zstd().decompress(plain[_LENGTH:], length), schema)


def _zstd() -> Any:
    return pa.Codec("zstd")
