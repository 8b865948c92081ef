"""The examples that were learned, in Parquet: what full retrains and `freshrank evaluate` read.

Files of a partition are named by the offsets they hold, `<from>-<to>.parquet`. A message is kept as it came: whoever
reads it decodes what the trainer decoded. Where files are sealed, each shopper's rows are under a key of their own, and
messages are put together again of the rows that have one.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.common.errors import CorruptState
from services.common.keytable import is_sealed, reading
from services.common.records import decode
from services.common.spec import ModelSpec
from services.trainer.examples import Batch, Ranges
from services.trainer.sealing import messages_of, opened

log = logging.getLogger(__name__)

SPEC = "spec.json"
_NAME = re.compile(r"(\d{16})-(\d{16})\.parquet")


class ArchiveSource:
    """Reads an archive as the trainer reads the topic: the same `Source`, in files."""

    def __init__(
        self, folder: Path, messages: int = 20, until: float = 1.0, ends: Mapping[int, int] | None = None
    ) -> None:
        """`messages` make a batch; `until` is the share of each partition that is read, the oldest.

        `ends`: offsets to stop before, by partition; a partition that is not named is not read.
        Raises CorruptState when the folder holds no archive.
        """
        self.folder, self._folders = folder, partitions(folder)
        self._files = {p: found for p, part in self._folders.items() if (found := files(part))}
        if not self._files:
            raise CorruptState(f"{folder} holds no examples: <partition>/<from>-<to>.parquet")
        self._most, self._until, self._ends = messages, until, ends
        self._next: dict[int, int] = {}
        self._times: dict[int, tuple[int, int]] = {}
        """Per partition the offset that is next, and its time."""
        self._lost: dict[tuple[int, int], int] = {}
        """Groups that no key opens, by partition and start of the file."""
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

    @property
    def lost(self) -> int:
        """Groups without a key, of forgotten shoppers, in the files read so far: they were passed over."""
        return sum(self._lost.values())

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
        if self.done and self.lost:
            log.warning("%d groups in %s have no key: their shoppers are forgotten", self.lost, self.folder)
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
                self._loaded[partition] = ((start, end), self._read(partition, start, end))
            left = [entry for entry in self._loaded[partition][1] if entry[0] >= offset]
            if left:
                return left
        return []

    def _read(self, partition: int, start: int, end: int) -> list[tuple[int, bytes]]:
        path = path_of(self._folders[partition], start, end)
        try:
            table = pq.read_table(path)
            if not is_sealed(table.schema):
                return list(zip(table["offset"].to_pylist(), table["value"].to_pylist(), strict=True))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise CorruptState(f"{path.name}: {error}") from error
        with reading(self.folder) as keys:
            found = opened(table, keys)
        self._lost[partition, start] = found.lost
        return messages_of(found.rows)

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
        return int(rows.column("time_us")[0].as_py() or 0) if rows.num_rows else 0
    except CorruptState:  # whoever learns it says so
        return 0


def _batch(ranges: Ranges, found: Mapping[int, Sequence[tuple[int, bytes]]]) -> Batch:
    values = {p: [value for _, value in entries] for p, entries in found.items()}
    return Batch(dict(ranges), values, offsets={p: [offset for offset, _ in entries] for p, entries in found.items()})


def path_of(folder: Path, start: int, end: int) -> Path:
    return folder / f"{start:016d}-{end:016d}.parquet"


def partitions(folder: Path) -> dict[int, Path]:
    found = folder.iterdir() if folder.is_dir() else iter(())
    return {int(path.name): path for path in found if path.is_dir() and path.name.isdigit()}


def files(folder: Path) -> list[tuple[int, int]]:
    """[from, to) of a partition's files, in order."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return sorted((int(name[1]), int(name[2])) for name in names if name is not None)
