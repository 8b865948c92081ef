"""Examples as they come from the log, and the steps a batch of them is learned in.

Pure: a message is bytes, a batch is whole messages, and the same messages always give the same steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import Impression
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.common import records
from services.common.errors import CorruptState
from services.common.ids import share_of
from services.common.records import CLOSED, FLIP, FORGET, INITIAL

Ranges = dict[int, tuple[int, int]]
"""Partition -> offsets [from, to) of a batch."""

Place = tuple[int, int]
"""`src_offset` and `src_index` of an example: where it came from in its source partition."""


@dataclass(frozen=True)
class Batch:
    """Whole messages of some partitions, in offset order: what the journal names."""

    ranges: Ranges
    messages: Mapping[int, Sequence[bytes]]
    traces: tuple[bytes, ...] = ()
    """Headers `traceparent` of the messages that have one."""
    offsets: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Of the messages; a partition without any has one message per offset of its range."""

    def numbered(self, partition: int) -> Iterator[tuple[int, bytes]]:
        """(offset, message) of a partition, in order."""
        messages = self.messages.get(partition, ())
        start = self.ranges[partition][0]
        offsets = self.offsets.get(partition) or range(start, start + len(messages))
        return zip(offsets, messages, strict=True)


@dataclass(frozen=True)
class Example:
    """One row of `examples`: an impression, some of its items, and what happened to them."""

    kind: int
    time_us: int
    event_time_us: int
    received_us: int
    impression_id: str
    user: str
    items: list[int]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32]
    impression: Impression


@dataclass
class Step:
    """What one update learns from, apart by kind."""

    initial: list[Example] = field(default_factory=list)
    flips: list[Example] = field(default_factory=list)
    closed: list[Example] = field(default_factory=list)
    forgets: list[Example] = field(default_factory=list)

    def add(self, example: Example) -> None:
        """Put an example where its kind belongs; unknown kinds are a newer joiner's and are passed over."""
        groups = {INITIAL: self.initial, FLIP: self.flips, CLOSED: self.closed, FORGET: self.forgets}
        groups.get(example.kind, []).append(example)

    @property
    def learned(self) -> int:
        """Impressions or clicks in it, whichever are more."""
        return max(len(self.initial), len(self.flips))

    @property
    def examples(self) -> list[Example]:
        """All of them."""
        return [*self.initial, *self.flips, *self.closed, *self.forgets]

    @property
    def log_time_us(self) -> int:
        """The newest log time in it; 0 when empty."""
        return max((example.time_us for example in self.examples), default=0)


@dataclass(frozen=True)
class StepSize:
    """How large an update is at least: in impressions (or clicks) and in candidates.

    What a step costs beside its candidates is worth a few hundred of them; what it learns from are clicks, which come
    per impression, however long the lists.
    """

    impressions: int = 20
    candidates: int = 384


class Reader:
    """Turns batches into steps; remembers per partition what it has seen, so that a repetition is dropped.

    `seen` is part of the checkpoint.
    """

    def __init__(
        self,
        size: StepSize,
        share: float = 1.0,
        seen: Mapping[int, Place] | None = None,
        arm: str = "",
        kinds: frozenset[int] | None = None,
    ) -> None:
        """`arm`: whose shoppers' impressions are taken; empty = everybody's. `kinds` of example; None = all."""
        self._size = size
        self._share = share
        self._arm = arm
        self._kinds = kinds
        self.seen: dict[int, Place] = dict(seen or {})
        self.repeated = 0
        """Examples dropped because they came a second time."""
        self.unreadable = 0
        """Messages and examples that could not be read: passed over, so that one cannot stop the learning."""

    def steps(self, batch: Batch) -> Iterator[Step]:
        """The steps of a batch, in order; each ends as soon as it is large enough."""
        step, filled = Step(), 0
        for example in self.examples(batch):
            step.add(example)
            filled += len(example.impression.items) if example.kind != CLOSED else 1
            if filled >= self._size.candidates and step.learned >= self._size.impressions:
                yield step
                step, filled = Step(), 0
        if step.examples:
            yield step

    def examples(self, batch: Batch) -> Iterator[Example]:
        """The examples of a batch that were not seen before, one by one, in order."""
        for partition in sorted(batch.messages):
            for value in batch.messages[partition]:
                yield from self._examples(partition, value)

    def _examples(self, partition: int, value: bytes) -> Iterator[Example]:
        try:
            rows = records.decode(value)
        except CorruptState:
            self.unreadable += 1
            return
        columns = rows.to_pydict()
        for k in range(rows.num_rows):
            place = (columns["src_offset"][k], columns["src_index"][k])
            if place <= self.seen.get(partition, (-1, -1)):
                self.repeated += 1
                continue
            self.seen[partition] = place
            if self._kinds is not None and columns["kind"][k] not in self._kinds:
                continue
            wanted = share_of(columns["user"][k] or "", "trainer-share") < self._share
            if wanted or columns["kind"][k] == FORGET:
                yield from self._example({name: column[k] for name, column in columns.items()})

    def _example(self, row: dict[str, Any]) -> Iterator[Example]:
        try:
            impression = Impression.FromString(row["impression"] or b"")
        except DecodeError:
            self.unreadable += 1
            return
        if self._arm and impression.arm != self._arm and row["kind"] != FORGET:
            return
        items, labels, weights = row["items"] or [], row["labels"] or [], row["weights"] or []
        if not len(items) == len(labels) == len(weights) or not all(0 <= k < len(impression.items) for k in items):
            self.unreadable += 1
            return
        yield Example(
            kind=row["kind"],
            time_us=row["time_us"] or 0,
            event_time_us=row["event_time_us"] or 0,
            received_us=row["received_us"] or 0,
            impression_id=row["impression_id"] or "",
            user=row["user"] or "",
            items=items,
            labels=np.array(labels, np.uint8),
            weights=np.array(weights, np.float32) / np.float32(self._share),
            impression=impression,
        )
