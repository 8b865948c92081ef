"""The examples that were learned, in Parquet: what full retrains and `freshrank evaluate` read.

Files of a partition are named by the offsets they hold, `<from>-<to>.parquet`, and are written before the checkpoint
that has passed them. So the archive is never behind the checkpoints, and after a crash the same range is written
again under the same first offset. A small file is written anew with what comes next: a release every half minute would
leave thousands a day. A message is kept as it came: whoever reads it decodes what the trainer decoded.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.common.clock import Clock, WallClock
from services.common.errors import CorruptState
from services.common.records import decode
from services.common.spec import ModelSpec
from services.trainer.examples import Batch, Ranges
from services.trainer.files import remove_staging, sync_file, sync_folder, write_file
from services.trainer.hooks import NoHooks

ROLL_BYTES = 64 * 1024 * 1024
"""Bytes of one partition's messages from which a file is written before its time."""

SMALL_BYTES = 4 * 1024 * 1024
"""Bytes on disk below which the newest file of a partition is written anew with what comes next."""

SPEC = "spec.json"
DAY_S = 24 * 3600.0
_SINCE = b"freshrank.since_us"
"""Key of a file's metadata: when its oldest part was written."""
_LOOK_S = 3600.0
"""How often old files are looked for."""

_NAME = re.compile(r"(\d{16})-(\d{16})\.parquet")
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

    def __init__(self, folder: Path, keep_s: float = math.inf, clock: Clock | None = None) -> None:
        """`keep_s`: seconds after which a file is taken away."""
        self._folder, self._keep_s, self._clock = folder, keep_s, clock or WallClock()
        folder.mkdir(parents=True, exist_ok=True)
        for part in _partitions(folder).values():
            remove_staging(part)
        self._newest = {p: found[-1] for p, part in _partitions(folder).items() if (found := _files(part))}
        self._open: dict[int, _Open] = {}
        self._looked_s = -math.inf

    def add(self, batch: Batch) -> None:
        """Take a batch; what is in a file already (learned again after a rollback) is passed over."""
        for partition, (start, end) in batch.ranges.items():
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
        for part in _partitions(self._folder).values():
            for path in part.glob("*.parquet"):
                if path.stat().st_mtime < before_s:
                    path.unlink()

    def _write(self, partition: int) -> None:
        held = self._open.pop(partition)
        folder = self._folder / str(partition)
        folder.mkdir(exist_ok=True)
        start, table = held.start, pa.table({"offset": held.offsets, "value": held.values}, _SCHEMA)
        since = str(self._clock.now_us())
        small = self._small(partition, held.start)
        if small is not None:
            since = small.schema.metadata[_SINCE].decode()
            start, table = self._newest[partition][0], pa.concat_tables([small, table])
        table = table.replace_schema_metadata({_SINCE: since})
        path = _path(folder, start, held.end)
        staging = folder / f".staging-{path.name}"
        pq.write_table(table, staging, compression="zstd")
        sync_file(staging)
        staging.rename(path)
        sync_folder(folder)
        if small is not None:
            _path(folder, *self._newest[partition]).unlink()  # a crash before this leaves both, which say the same
        self._newest[partition] = (start, held.end)

    def _small(self, partition: int, start: int) -> pa.Table | None:
        """What the newest file of a partition holds, if it is small, of today and ends where the next one starts."""
        first, end = self._newest.get(partition, (0, -1))
        path = _path(self._folder / str(partition), first, end)
        try:
            if end != start or path.stat().st_size >= SMALL_BYTES:
                return None
            table = pq.read_table(path)
            # Files are taken away whole: what is old may not be kept by what comes.
            young = self._clock.now_us() - int((table.schema.metadata or {})[_SINCE]) < DAY_S * 1e6
            return table if young else None
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None  # gone with its age, or unreadable: it stays what it is


class ArchiveSource:
    """Reads an archive as the trainer reads the topic: the same `Source`, in files."""

    def __init__(
        self, folder: Path, messages: int = 20, until: float = 1.0, ends: Mapping[int, int] | None = None
    ) -> None:
        """`messages` make a batch; `until` is the share of each partition that is read, the oldest.

        `ends`: offsets to stop before, by partition; a partition that is not named is not read.
        Raises CorruptState when the folder holds no archive.
        """
        self.folder, self._folders = folder, _partitions(folder)
        self._files = {p: found for p, part in self._folders.items() if (found := _files(part))}
        if not self._files:
            raise CorruptState(f"{folder} holds no examples: <partition>/<from>-<to>.parquet")
        self._most, self._until, self._ends = messages, until, ends
        self._next: dict[int, int] = {}
        self._times: dict[int, tuple[int, int]] = {}
        """Per partition the offset that is next, and its time."""
        self._loaded: dict[int, tuple[tuple[int, int], list[tuple[int, bytes]]]] = {}
        self.seek({})

    @property
    def spec(self) -> ModelSpec:
        """Features of the newest examples. Raises CorruptState when the archive does not say."""
        try:
            return ModelSpec.from_json(json.loads((self.folder / SPEC).read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptState(f"{SPEC}: {error}") from error

    @property
    def messages(self) -> int:
        """Messages in all, as far as offsets tell."""
        return sum(self._end(p) - self._start(p) for p in self.partitions)

    @property
    def partitions(self) -> Sequence[int]:
        """Partitions that there are."""
        return sorted(self._files)

    @property
    def done(self) -> bool:
        """True when everything was given."""
        return all(self._next[p] >= self._end(p) for p in self.partitions)

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._next = {p: positions.get(p, 0) for p in self.partitions}
        self._loaded = {}

    def poll(self, timeout_s: float = 0) -> Batch | None:
        """See `Source`; the partition whose next message is the oldest comes next: one that was added later begins
        later.
        """
        behind = [p for p in self.partitions if self._next[p] < self._end(p)]
        if not behind:
            return None
        partition = min(behind, key=lambda p: (self._time(p), self._next[p] / self._end(p)))
        start = self._next[partition]
        taken = [entry for entry in self._from(partition, start) if entry[0] < self._end(partition)][: self._most]
        end = taken[-1][0] + 1 if taken else self._end(partition)
        self._next[partition] = end
        return _batch({partition: (start, end)}, {partition: taken})

    def read(self, ranges: Ranges) -> Batch:
        """See `Source`."""
        return _batch(ranges, {p: self._all(p, start, end) for p, (start, end) in ranges.items()})

    def _all(self, partition: int, start: int, end: int) -> list[tuple[int, bytes]]:
        out: list[tuple[int, bytes]] = []
        at = start
        while at < end and (found := self._from(partition, at)):
            out += [(o, v) for o, v in found if o < end]
            at = found[-1][0] + 1
        return out

    def _from(self, partition: int, offset: int) -> list[tuple[int, bytes]]:
        """Messages of the file that holds the first one from `offset` on; empty at the end."""
        for start, end in self._files[partition]:
            if end <= offset:
                continue
            if self._loaded.get(partition, ((-1, -1), []))[0] != (start, end):
                self._loaded[partition] = ((start, end), _read(self._folders[partition], start, end))
            left = [entry for entry in self._loaded[partition][1] if entry[0] >= offset]
            if left:
                return left
        return []

    def _time(self, partition: int) -> int:
        """Log time of the next message, microseconds; 0 when it says none."""
        at = self._next[partition]
        if self._times.get(partition, (-1, 0))[0] != at:
            value = next((value for _, value in self._from(partition, at)), b"")
            self._times[partition] = (at, _time_of(value))
        return self._times[partition][1]

    def _start(self, partition: int) -> int:
        return self._files[partition][0][0]

    def _end(self, partition: int) -> int:
        start, last = self._start(partition), max(end for _, end in self._files[partition])
        last = start + int((last - start) * self._until)
        return last if self._ends is None else max(start, min(last, self._ends.get(partition, start)))


def _time_of(value: bytes) -> int:
    try:
        rows = decode(value)
        return int(rows.column("time_us")[0].as_py()) if rows.num_rows else 0
    except CorruptState:  # whoever learns it says so
        return 0


def _batch(ranges: Ranges, found: Mapping[int, Sequence[tuple[int, bytes]]]) -> Batch:
    values = {p: [value for _, value in entries] for p, entries in found.items()}
    return Batch(dict(ranges), values, offsets={p: [offset for offset, _ in entries] for p, entries in found.items()})


def _read(folder: Path, start: int, end: int) -> list[tuple[int, bytes]]:
    path = _path(folder, start, end)
    try:
        table = pq.read_table(path)
        return list(zip(table["offset"].to_pylist(), table["value"].to_pylist(), strict=True))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise CorruptState(f"{path.name}: {error}") from error


def _path(folder: Path, start: int, end: int) -> Path:
    return folder / f"{start:016d}-{end:016d}.parquet"


def _partitions(folder: Path) -> dict[int, Path]:
    found = folder.iterdir() if folder.is_dir() else iter(())
    return {int(path.name): path for path in found if path.is_dir() and path.name.isdigit()}


def _files(folder: Path) -> list[tuple[int, int]]:
    """[from, to) of a partition's files, in order."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return sorted((int(name[1]), int(name[2])) for name in names if name is not None)
