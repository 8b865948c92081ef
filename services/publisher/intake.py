"""Reads topic examples: served impressions for the watch, closed ones with their labels for gate and watch."""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa
from freshrank.v1.events_pb2 import Impression
from google.protobuf.message import DecodeError

from services.common import records
from services.common.errors import CorruptState
from services.publisher.replay import Closed, Replay, Snapshot


class Watching(Protocol):
    """Who looks at impressions as they pass."""

    def served(self, impression: Impression) -> None:
        """An impression was answered."""

    def closed(self, closed: Closed) -> None:
        """The click window of an impression has ended."""


class Intake:
    """Takes each example once; `apply` is called by one thread, `snapshot` by any."""

    def __init__(self, replay: Replay, watching: Watching) -> None:
        self._replay, self._watching = replay, watching
        self._lock = threading.Lock()
        self._applied: dict[int, tuple[int, int]] = {}
        self.unreadable = 0
        """Messages and impressions that could not be decoded."""

    def apply(self, partition: int, value: bytes | None) -> None:
        """Take one message in; rows that have been taken before are dropped by their source position."""
        try:
            batch = records.decode(value or b"")
        except CorruptState:
            self.unreadable += 1
            return
        if not batch.schema.equals(records.EXAMPLES):
            self.unreadable += 1
            return
        for row in self._fresh(partition, batch):
            self._take(row)

    def snapshot(self, newest: int = 0) -> Snapshot:
        """The kept impressions as they are now."""
        with self._lock:
            return self._replay.snapshot(newest)

    def __len__(self) -> int:
        return len(self._replay)

    def _fresh(self, partition: int, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        wanted = ("src_offset", "src_index", "kind", "items", "labels", "impression")
        columns = [batch.column(name).to_pylist() for name in wanted]
        last = self._applied.get(partition, (-1, -1))
        for values in zip(*columns, strict=True):
            row = dict(zip(wanted, values, strict=True))
            place = (row["src_offset"], row["src_index"])
            if place > last:
                last = place
                yield row
        self._applied[partition] = last

    def _take(self, row: dict[str, Any]) -> None:
        if row["kind"] == records.FLIP:
            return
        try:
            impression = Impression.FromString(row["impression"])
            closed = Closed(impression, tuple(row["items"] or ()), tuple(row["labels"] or ()))
            _ = [impression.items[index] for index in closed.items]
        except (DecodeError, IndexError, TypeError):
            self.unreadable += 1
            return
        if row["kind"] == records.INITIAL:
            self._watching.served(impression)
            return
        with self._lock:
            self._replay.add(closed)
        self._watching.closed(closed)
