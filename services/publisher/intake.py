"""Reads topic examples: served impressions for the watch, labelled ones for gate and watch."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import pyarrow as pa
from freshrank.v1.events_pb2 import Impression
from google.protobuf.message import DecodeError

from services.common import records
from services.common.errors import CorruptState
from services.publisher.replay import Closed, Replay, Snapshot
from services.publisher.ripening import Ripening

_COLUMNS = (
    "src_offset",
    "src_index",
    "kind",
    "time_us",
    "impression_id",
    "items",
    "labels",
    "weights",
    "impression",
    "user",
    "event_time_us",
)
_FINAL = 5_000
"""Closed impressions whose times are remembered."""
_OPEN = 5_000
"""Impressions of one partition that wait for their labels at most."""


class Watching(Protocol):
    """Who looks at impressions as they pass."""

    def served(self, impression: Impression) -> None:
        """An impression was answered."""

    def labelled(self, closed: Closed) -> None:
        """The labels of an impression are known."""


class Intake:
    """Takes each example once; `apply` is called by one thread, `snapshot` by any.

    `ripe_us`: how far the log clock must be beyond an impression for its labels to count; 0 waits for CLOSED.
    """

    def __init__(self, replay: Replay, watching: Watching, ripe_us: int) -> None:
        self._replay, self._watching, self._ripe_us = replay, watching, ripe_us
        self._lock = threading.Lock()
        self._applied: dict[int, tuple[int, int]] = {}
        self._ripening: dict[int, Ripening] = {}
        self.unreadable = 0
        """Messages and impressions that could not be decoded."""
        self._final: deque[int] = deque(maxlen=_FINAL)

    def apply(self, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """Take one message in; rows that have been taken before are dropped by their source position.

        `key` says what the label bits mean (`records.heads_key`); without one they are taken for the model's own.
        """
        try:
            batch = records.decode(value or b"")
        except CorruptState:
            self.unreadable += 1
            return
        if not batch.schema.equals(records.EXAMPLES):
            self.unreadable += 1
            return
        heads = records.heads_of(key or b"")
        ripening = self._ripening.setdefault(partition, Ripening(self._ripe_us, _OPEN))
        for row in self._fresh(partition, batch):
            try:
                self._keep(self._take(row, heads, ripening))
            except (DecodeError, IndexError, TypeError):
                self.unreadable += 1
            self._keep(ripening.ripe(row["time_us"] or 0))

    def snapshot(self, candidates: int = 0) -> Snapshot:
        """The kept impressions as they are now; `candidates` > 0: about the newest so many."""
        with self._lock:
            return self._replay.snapshot(candidates)

    def searches(self, most: int) -> list[Closed]:
        """The newest kept impressions that answered a query."""
        with self._lock:
            return self._replay.searches(most)

    def final_since(self, time_us: int) -> int:
        """Impressions of this time or later whose click window has ended, among the newest."""
        with self._lock:
            return sum(at >= time_us for at in self._final)

    def __len__(self) -> int:
        return len(self._replay)

    def _fresh(self, partition: int, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        columns = [batch.column(name).to_pylist() for name in _COLUMNS]
        last = self._applied.get(partition, (-1, -1))
        for values in zip(*columns, strict=True):
            row = dict(zip(_COLUMNS, values, strict=True))
            place = (row["src_offset"], row["src_index"])
            if place > last:
                self._applied[partition] = last = place
                yield row

    def _take(self, row: dict[str, Any], heads: tuple[str, ...], ripening: Ripening) -> list[Closed]:
        if row["kind"] == records.FORGET:
            user, before_us = row["user"] or "", row["event_time_us"] or 0
            ripening.forget(user, before_us)
            with self._lock:
                self._replay.forget(user, before_us)
            return []
        impression = Impression.FromString(row["impression"])
        items, labels = row["items"] or [], row["labels"] or []
        if row["kind"] == records.FLIP:
            for index, bits in zip(items, labels, strict=True):
                ripening.flipped(row["impression_id"], impression.items[index].item_id, bits)
            return []
        shown = [(index, bits) for index, bits in zip(items, labels, strict=True) if impression.items[index].shown]
        places = tuple(index for index, _ in shown)
        if row["kind"] == records.INITIAL:
            if any(row["weights"] or ()):
                ripening.opened(impression, places, heads)
            else:  # of a program, or answered from stale features: not learned, so not judged by
                ripening.closed(row["impression_id"])
            self._watching.served(impression)
            return []
        with self._lock:
            self._final.append(impression.time_us)
        first = ripening.closed(row["impression_id"])
        return [Closed(impression, places, tuple(bits for _, bits in shown), heads)] if first else []

    def _keep(self, labelled: Iterable[Closed]) -> None:
        for closed in labelled:
            with self._lock:
                self._replay.add(closed)
            self._watching.labelled(closed)
