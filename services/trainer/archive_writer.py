"""Writes the archive of examples.

A file is written before the checkpoint that has passed it, so the archive is never behind the checkpoints, and after a
crash the same range is written again under the same first offset. A small file is written anew with what comes next:
a release every half minute would leave thousands a day.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.common.clock import Clock, WallClock
from services.common.keytable import KeyTable, is_sealed
from services.common.sealed import seal_log
from services.common.spec import ModelSpec
from services.trainer.archive import SPEC, files, partitions, path_of
from services.trainer.examples import Batch
from services.trainer.files import STAGING, remove_staging, sync_file, sync_folder, write_file
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.sealing import ORDER, forgets, opened, rows_of

log = logging.getLogger(__name__)

ROLL_BYTES = 64 * 1024 * 1024
"""Bytes of one partition's messages from which a file is written before its time."""

SMALL_BYTES = 4 * 1024 * 1024
"""Bytes on disk below which the newest file of a partition is written anew with what comes next."""

DAY_S = 24 * 3600.0
_SINCE = b"freshrank.since_us"
"""Key of a file's metadata: when its oldest part was written."""
_LOOK_S = 3600.0
"""How often old files are looked for."""

_SCHEMA = pa.schema([("offset", pa.int64()), ("value", pa.binary())])


@dataclass
class _Open:
    """What waits to be written of one partition."""

    start: int
    end: int
    offsets: list[int] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    bytes: int = 0


class Archive:
    """Keeps batches; `flush` writes them."""

    def __init__(
        self,
        folder: Path,
        keep_s: float = math.inf,
        clock: Clock | None = None,
        keys: KeyTable | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """`keep_s`: seconds after which a file is taken away. With `keys` files are sealed, those of before too."""
        self._folder, self._keep_s, self._clock = folder, keep_s, clock or WallClock()
        self._keys, self._hooks = keys, hooks or NoHooks()
        folder.mkdir(parents=True, exist_ok=True)
        for part in partitions(folder).values():
            remove_staging(part)
        if keys is not None:
            self._seal_plain(keys)
        self._newest = {p: found[-1] for p, part in partitions(folder).items() if (found := files(part))}
        self._open: dict[int, _Open] = {}
        self._looked_s = -math.inf

    def add(self, batch: Batch) -> None:
        """Take a batch; what is in a file already (learned again after a rollback) is passed over."""
        for partition, (start, end) in batch.ranges.items():
            self._heed(partition, batch)
            start = max(start, self._newest.get(partition, (0, 0))[1])
            if start >= end:
                continue
            held = self._open.setdefault(partition, _Open(start, start))
            for offset, value in batch.numbered(partition):
                if offset >= held.end:
                    held.offsets.append(offset)
                    held.values.append(value)
                    held.bytes += len(value)
            held.end = max(held.end, end)
            if held.bytes >= ROLL_BYTES:
                self._write(partition)

    def _heed(self, partition: int, batch: Batch) -> None:
        """Forget whom a batch says; what is held of them is left out when it is written."""
        for shopper, place in forgets(batch.numbered(partition)) if self._keys is not None else ():
            assert self._keys is not None
            self._keys.forget(shopper, partition, place)
            self._hooks.at("archive.forgotten")

    def _seal_plain(self, keys: KeyTable) -> None:
        """Seal the files of before, in the order of the log; each keeps its name and its age."""
        for partition, part in partitions(self._folder).items():
            for path in (path_of(part, *ends) for ends in files(part)):
                try:
                    table = pq.read_table(path)
                except (OSError, pa.ArrowException) as error:
                    log.warning("a file cannot be sealed", extra={"file": path.name, "error": str(error)})
                    continue
                if not is_sealed(table.schema):
                    made = seal_log(opened(table, keys).rows, partition, ORDER, keys)
                    self._put(path, made, table.schema.metadata or {}, path.stat().st_mtime)

    def describe(self, spec: ModelSpec) -> None:
        """Keep which features the impressions hold, under the newest names, beside them."""
        path, body = self._folder / SPEC, json.dumps(spec.to_json())
        if not path.exists() or path.read_text() != body:
            write_file(path, body.encode(), NoHooks(), "spec")

    def flush(self) -> None:
        """Write what waits, and take away what is too old."""
        for partition in list(self._open):
            self._write(partition)
        now_s = self._clock.now_us() / 1e6
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._drop(now_s - self._keep_s)

    def _drop(self, before_s: float) -> None:
        for part in partitions(self._folder).values():
            for path in part.glob("*.parquet"):
                if path.stat().st_mtime < before_s:
                    path.unlink()

    def _write(self, partition: int) -> None:
        held = self._open.pop(partition)
        folder = self._folder / str(partition)
        folder.mkdir(exist_ok=True)
        start, metadata = held.start, {_SINCE: str(self._clock.now_us()).encode()}
        small = self._small(partition, held.start)
        if small is not None:
            start, metadata = self._newest[partition][0], small.schema.metadata
        self._put(path_of(folder, start, held.end), self._joined(partition, small, held), metadata)
        if small is not None:
            path_of(folder, *self._newest[partition]).unlink()  # a crash before this leaves both, which say the same
        self._newest[partition] = (start, held.end)

    def _joined(self, partition: int, small: pa.Table | None, held: _Open) -> pa.Table:
        """What a file holds of its predecessor and of what came since."""
        if self._keys is None:
            table = pa.table({"offset": held.offsets, "value": held.values}, _SCHEMA)
            return table if small is None else pa.concat_tables([small, table])
        rows = rows_of(held.offsets, held.values)
        before = [] if small is None else [opened(small, self._keys).rows]
        table = seal_log(pa.concat_tables([*before, rows]), partition, ORDER, self._keys)
        self._hooks.at("archive.sealed")
        return table

    def _put(self, path: Path, table: pa.Table, metadata: Mapping[bytes, bytes], time_s: float | None = None) -> None:
        """Write a file that is whole or not there; `metadata` says since when, `time_s` is its age's."""
        since = {_SINCE: metadata[_SINCE]} if _SINCE in metadata else {}
        staging = path.with_name(STAGING + path.name)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **since})
        pq.write_table(table, staging, compression="zstd")
        if time_s is not None:
            os.utime(staging, (time_s, time_s))
        sync_file(staging)
        self._hooks.at("archive.staged")
        staging.rename(path)
        sync_folder(path.parent)
        self._hooks.at("archive.renamed")

    def _small(self, partition: int, start: int) -> pa.Table | None:
        """What the newest file of a partition holds, if it is small, of today and ends where the next one starts."""
        first, end = self._newest.get(partition, (0, -1))
        path = path_of(self._folder / str(partition), first, end)
        try:
            if end != start or path.stat().st_size >= SMALL_BYTES:
                return None
            table = pq.read_table(path)
            if is_sealed(table.schema) and self._keys is None:
                return None
            # Files are taken away whole: what is old may not be kept by what comes.
            young = self._clock.now_us() - int((table.schema.metadata or {})[_SINCE]) < DAY_S * 1e6
            return table if young else None
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None  # gone with its age, or unreadable: it stays what it is
