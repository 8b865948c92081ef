"""One partition of one stage: takes what has come, folds it, waits for the effects, saves now and then.

Nothing here knows where messages come from. Three positions of the log make it safe, never out of order:
`wanted` (the next message to take in) >= `fold.next_offset` (folded) >= `applied` (folded, and every effect of it
acknowledged). Only a fold at `applied` is saved, so a state on disk is never ahead of what it did to the world.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter

from services.common.clock import Clock
from services.common.errors import TemporaryError
from services.common.health import Health
from services.common.records import Message
from services.common.snapshots import SnapshotStore
from services.common.stage import Fold, Snapshot, Stage
from services.common.tracing import Tracing

log = logging.getLogger(__name__)

HELD_MESSAGES, HELD_BYTES = 2_000, 64 << 20
"""What waits for one partition before the consumer is held back; one message larger than that still passes."""

STEP_MESSAGES, STEP_BYTES = 200, 16 << 20
"""One step: what is folded together, and done again when its effects fail."""

LAST_STEP_SECONDS = 5.0
"""For the step in progress when the process is asked to stop."""

CANCEL_SECONDS = 5.0
"""A cancelled step that takes longer holds a partition that is another worker's: the process ends."""


@dataclass(frozen=True)
class Surroundings:
    """What a runner needs from its process."""

    snapshots: SnapshotStore
    health: Health
    clock: Clock
    snapshot_us: int
    attempts: int
    """Of an emit that fails for a time, before the process ends."""
    saves: Counter
    failed_saves: Counter
    hole: Callable[[str, int, int, int], Awaitable[None]]
    """(topic, partition, wanted, found): returns when the log itself has nothing between the two, else raises."""
    fail: Callable[[], None]
    """End the process before anything that was not done is taken for done."""
    cancel_seconds: float = CANCEL_SECONDS
    tracing: Tracing = field(default_factory=lambda: Tracing("stage"))


class Runner:
    """Folds one partition in a task of its own until it is closed."""

    def __init__(self, stage: Stage[Any], partition: int, snapshot: Snapshot | None, around: Surroundings) -> None:
        self._stage = stage
        self._topic = stage.topic.name
        self._partition = partition
        self._around = around
        self.fold: Fold[Any] = stage.open(partition, snapshot)
        self.applied = self._saved = self._wanted = self.fold.next_offset
        self._saved_us = self._kept_us = self._stepped_us = around.clock.now_us()
        self.closed = False
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._saving: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run())

    async def offer(self, message: Message) -> None:
        """Take a message in, each offset once; waits while too much is held, which holds the consumer back."""
        while not self.closed and (len(self._held) >= HELD_MESSAGES or self._held_bytes >= HELD_BYTES):
            self._room.clear()
            await self._room.wait()
        if self.closed or message.offset < self._wanted:  # rewound and doubled deliveries
            return
        if message.offset > self._wanted:
            await self._around.hole(self._topic, self._partition, self._wanted, message.offset)
        self._wanted = message.offset + 1
        self._held.append(message)
        self._held_bytes += len(message.value)
        self._arrived.set()

    @property
    def unsaved_seconds(self) -> float:
        """How much a restart does again: from the newest snapshot to the newest step. Silence adds nothing."""
        return max(0, self._stepped_us - self._kept_us) / 1e6 if self.applied != self._saved else 0.0

    async def close(self, save: bool) -> None:
        """Stop. With `save` after the step in progress, and on disk; else at once: the partition is another's."""
        self.closed = True
        self._arrived.set()
        self._room.set()
        if save:
            await asyncio.wait({self._task}, timeout=LAST_STEP_SECONDS)
        self._task.cancel()
        _, running = await asyncio.wait({self._task}, timeout=self._around.cancel_seconds)
        if running:
            log.error("a step does not stop", extra={"topic": self._topic, "partition": self._partition})
            self._around.fail()
        if save and self.applied == self.fold.next_offset:
            if self._saving is not None:
                await self._saving
            await self._write(self._snapshot())

    async def _run(self) -> None:
        try:
            while not self.closed:
                batch = await self._take()
                if batch:
                    await self._step(batch)
                await asyncio.sleep(0)  # the other partitions
        except asyncio.CancelledError:
            if not self.closed:
                log.error("step cancelled", extra={"topic": self._topic, "partition": self._partition})
                self._around.fail()
            raise
        except Exception:
            log.exception("step failed", extra={"topic": self._topic, "partition": self._partition})
            self._around.fail()

    async def _take(self) -> list[Message]:
        while not self._held and not self.closed:
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[Message] = []
        size = 0
        while self._held and not self.closed and len(batch) < STEP_MESSAGES and size < STEP_BYTES:
            batch.append(self._held.popleft())
            size += len(batch[-1].value)
        self._held_bytes -= size
        self._room.set()
        return batch

    async def _step(self, batch: list[Message]) -> None:
        with self._around.tracing.follow(f"{self._topic} step", [message.trace for message in batch]):
            outputs = self.fold.apply(batch)
            await self._emit(outputs)
        self.applied = self.fold.next_offset
        self._stepped_us = self._around.clock.now_us()
        if self.closed:
            return
        self._around.health.applied(self._topic, self._partition, self.applied)
        due = self._stepped_us - self._saved_us >= self._around.snapshot_us
        if due and (self._saving is None or self._saving.done()):
            # The snapshot is a copy, so the next steps need not wait for the disk.
            self._saving = asyncio.create_task(self._write(self._snapshot()))

    async def _emit(self, outputs: Any) -> None:
        for attempt in range(self._around.attempts):
            try:
                await self._stage.emit(self._partition, outputs)
                return
            except TemporaryError as error:
                log.warning("emit failed, trying again", extra={"error": str(error), "attempt": attempt})
                await asyncio.sleep(min(2.0, 0.05 * 2**attempt))
        await self._stage.emit(self._partition, outputs)

    def _snapshot(self) -> Snapshot | None:
        self._saved_us = self._around.clock.now_us()
        return self.fold.snapshot() if self.applied != self._saved else None

    async def _write(self, snapshot: Snapshot | None) -> None:
        if snapshot is None:
            return
        taken_us = self._saved_us
        try:
            await asyncio.to_thread(self._around.snapshots.save, self._topic, self._partition, snapshot)
        except OSError as error:
            # A full disk costs a longer replay and nothing else: the log still holds everything.
            self._around.failed_saves.labels(self._topic).inc()
            log.error("snapshot not written", extra={"topic": self._topic, "error": str(error)})
        except Exception:
            log.exception("snapshot cannot be written", extra={"topic": self._topic, "partition": self._partition})
            self._around.fail()
        else:
            self._saved, self._kept_us = snapshot.next_offset, taken_us
            self._around.saves.labels(self._topic).inc()
