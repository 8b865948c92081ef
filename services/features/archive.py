"""Parquet under the store: the cleaned log, and the feature rows that were emitted (batch source of each view).

Files of the log hold a fixed range of offsets, so writing one again gives the same file. Files of feature rows are
named by the positions they span; a row holds at its `_pos` whoever wrote it, so one that is there twice says the same.
"""

import logging
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.common import sealed
from services.common.clock import Clock
from services.common.errors import CorruptState
from services.common.keytable import KeyTable, is_sealed
from services.common.records import INTERACTIONS, TICK, Message, decode
from services.features.rows import joined, to_numpy
from services.features.views import ViewRows
from services.online.encode import Column

log = logging.getLogger(__name__)

_USER = "_user"
"""Column of a sealed file that says whose a row is."""

_TYPES = {
    "INT64": pa.int64(), "INT32": pa.int32(), "FLOAT32": pa.float32(), "FLOAT64": pa.float64(), "BOOL": pa.bool_(),
    "STRING": pa.string(), "BYTES": pa.binary(), "UNIX_TIMESTAMP": pa.timestamp("s", "UTC"),
}  # fmt: skip


class FeatureArchive:
    """Collects emitted rows for a file per view and partition, ready when there are enough or time has passed.

    With keys the rows of shoppers are sealed; those of items belong to nobody.
    """

    def __init__(self, folder: Path, clock: Clock, roll_rows: int, roll_us: int, keys: KeyTable | None = None) -> None:
        self._folder, self._clock, self._rows, self._us, self._keys = folder, clock, roll_rows, roll_us, keys
        self._forgotten: dict[str, tuple[int, int]] = {}
        """Offset and time of the newest wish of each shopper: what is written yet may be from before."""
        self._lock = Lock()
        self._held: dict[tuple[str, str, int], list[ViewRows]] = {}
        self._since_us: dict[tuple[str, str, int], int] = {}

    def add(self, topic: str, partition: int, rows: ViewRows) -> None:
        """Take rows that were stored; roll_rows 0 keeps nothing."""
        if not self._rows:
            return
        key = (rows.view, topic, partition)
        held = self._held.setdefault(key, [])
        self._since_us.setdefault(key, self._clock.now_us())
        held.append(rows)

    def forget(self, user: str, partition: int, offset: int, before_us: int) -> None:
        """Forget what was emitted of a shopper up to a message of interactions."""
        if self._keys is not None:
            with self._lock:  # else a file that is being written now would give them a key again
                self._forgotten[user] = (offset, before_us)
                self._keys.forget(user, partition, (offset + 1, 0))

    def take(self, all_of_it: bool = False) -> list[tuple[Path, int, list[ViewRows]]]:
        """What is to be written now: file, partition, rows. Give each to `write`, in another thread if you like."""
        now_us, ready = self._clock.now_us(), []
        for key, held in list(self._held.items()):
            full = sum(len(part.keys) for part in held) >= self._rows
            if all_of_it or full or now_us - self._since_us[key] >= self._us:
                view, topic, partition = key
                name = f"{topic}-{partition}-{held[0].position:016d}-{held[-1].position:016d}.parquet"
                ready.append((self._folder / view / name, partition, self._held.pop(key)))
                self._since_us.pop(key)
        return ready

    def write(self, path: Path, partition: int, held: Sequence[ViewRows]) -> None:
        """Write one file."""
        tables = [_table(list(parts), self._clock.now_us()) for _, parts in groupby(held, _shape)]
        table = pa.concat_tables(tables, promote_options="default")
        users = [user for rows in held for user in rows.users]
        if self._keys is None or not users:
            write_whole(table, path)
            return
        table = table.append_column(_USER, pa.array(users, pa.string()))
        table = table.append_column(sealed.FEATURES.place, pa.array(np.arange(len(users))))
        with self._lock:
            made = sealed.seal(self._remembered(table), partition, sealed.FEATURES, self._keys, _USER)
        write_whole(made, path)

    def _remembered(self, table: pa.Table) -> pa.Table:
        """Rows that no wish is about: one that was emitted after it, without newer events, says nothing and names."""
        users = table[_USER].to_pylist()
        if self._forgotten.keys().isdisjoint(users):
            return table
        positions = to_numpy(table["_pos"])
        times = to_numpy(table["event_timestamp"].cast(pa.int64()))
        wishes = [self._forgotten.get(user, (-1, -1)) for user in users]
        offset, before_us = np.array(wishes, np.int64).T
        return table.filter(pa.array((positions > offset) & (times >= before_us)))


def _shape(rows: ViewRows) -> tuple[tuple[str, str], ...]:
    return tuple((name, rows.kinds[name]) for name in rows.columns)


def _table(parts: Sequence[ViewRows], now_us: int) -> pa.Table:
    """One table of parts with equal columns.

    The parts are joined in numpy, once per column: each call into Arrow lets go of the interpreter's lock and costs
    the folds a switch of threads.
    """
    first = parts[0]
    sizes = [len(rows.keys) for rows in parts]
    keys = zip(*(key for rows in parts for key in rows.keys), strict=True)
    columns: dict[str, Any] = dict(zip(first.join_keys, map(list, keys), strict=True))
    for name in first.columns:
        columns[name] = _array([rows.columns[name] for rows in parts], sizes, first.kinds[name])
    columns["_pos"] = pa.array(np.repeat([rows.position for rows in parts], sizes))
    columns["_clock"] = pa.array(np.repeat([rows.clock_us for rows in parts], sizes))
    columns["event_timestamp"] = pa.array(np.concatenate([rows.event_us for rows in parts]), pa.timestamp("us", "UTC"))
    columns["created"] = pa.array(np.full(sum(sizes), now_us, np.int64), pa.timestamp("us", "UTC"))
    return pa.table(columns)


def _array(columns: Sequence[Column], sizes: Sequence[int], kind: str) -> pa.Array:
    base = _TYPES[kind.removesuffix("_LIST")]
    arrow_type = pa.list_(base) if kind.endswith("_LIST") else base
    numbers = [isinstance(column.values, np.ndarray) for column in columns]
    if not any(numbers):
        return pa.array([value for column in columns for value in column.values], arrow_type)
    if not all(numbers):
        return pa.concat_arrays([_array([c], [n], kind) for c, n in zip(columns, sizes, strict=True)])
    nulls = [np.zeros(n, np.bool_) if c.nulls is None else c.nulls for c, n in zip(columns, sizes, strict=True)]
    values = np.concatenate([np.asarray(column.values) for column in columns])
    return pa.array(values, mask=np.concatenate(nulls)).cast(arrow_type)


class LogArchive:
    """The cleaned log of one partition in files of `block` offsets each: `put` messages in order from `next_offset`.

    With keys the files are sealed, those of before too.
    """

    def __init__(self, folder: Path, partition: int, block: int, keys: KeyTable | None = None) -> None:
        self._folder, self._partition, self._block, self._keys = folder / str(partition), partition, block, keys
        if keys is not None:
            self._seal_plain(keys)
        self._held: list[tuple[int, pa.RecordBatch]] = []
        done = [int(path.stem) for path in self._folder.glob("*.parquet")]
        self.next_offset = self._start = max(done) + block if done else 0

    def put(self, messages: Sequence[Message]) -> None:
        """Take messages; each block is written when a message beyond it comes.

        What cannot be read is left out: the fold has sent it to the dead letters.
        """
        for message in messages:
            start = message.offset // self._block * self._block
            if self._held and start > self._start:
                self._write()
            self._start = start
            self._hold(message)
            self.next_offset = message.offset + 1

    def _hold(self, message: Message) -> None:
        try:
            batch = decode(message.value)
        except CorruptState:
            return
        if batch.schema == INTERACTIONS:
            self._held.append((message.offset, batch))
            self._heed(message.offset, batch)

    def _heed(self, offset: int, batch: pa.RecordBatch) -> None:
        if self._keys is not None:
            for shopper, place in sealed.forgets(batch):
                self._keys.forget(shopper, self._partition, (offset, place))

    def _write(self) -> None:
        held, self._held = self._held, []
        path = self._folder / f"{self._start:016d}.parquet"
        if self._keys is None:
            write_whole(_log_rows(held), path)
        elif not path.exists():  # of a worker that went on here: what is forgotten since gets no key again
            write_whole(sealed.seal_log(_log_rows(held), self._partition, sealed.LOG, self._keys), path)

    def _seal_plain(self, keys: KeyTable) -> None:
        """Seal the blocks of before, in the order of the log."""
        for path in sorted(self._folder.glob("*.parquet")):
            try:
                table = pq.read_table(path)
            except (OSError, pa.ArrowException) as error:
                log.warning("a block cannot be sealed", extra={"file": path.name, "error": str(error)})
                continue
            if not is_sealed(table.schema):
                write_whole(sealed.seal_log(table, self._partition, sealed.LOG, keys), path)


def _log_rows(held: Sequence[tuple[int, pa.RecordBatch]]) -> pa.Table:
    table, offset, index = joined(held, INTERACTIONS)
    events = pa.array(to_numpy(table.column("kind")) != TICK)
    table = table.append_column(sealed.LOG.offset, pa.array(offset))
    return table.append_column(sealed.LOG.place, pa.array(index)).filter(events)


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a file beside its place and rename it: whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd")
    if path.exists():  # what is replaced may be on disk alone
        _sync(temporary)
    temporary.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
