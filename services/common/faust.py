"""Runs stages on Faust: group, assignment and flow are Faust's, positions and state are ours.

What Faust does that its users must know, and what stands against it here:

* it seeks every assigned partition to the committed offset last, after all callbacks, and rewinds partitions
  a worker keeps: `_PositionsConsumer` answers with the positions of the folds, and offsets below `next_offset`
  are dropped before decoding;
* an old owner may still be inside a step when a partition has moved: ownership is checked after every await;
* an exception that leaves an agent acknowledges the message: nothing leaves ours, a fault ends the process;
* concurrency above 1 commits past messages in flight: agents here have concurrency 1, scale by partitions;
* exactly_once has open faults: at-least-once with idempotent effects instead;
* its web server shows table contents and binds all addresses: it is never started;
* one fetch waits up to 1.5 s for partitions that have nothing: the wait is set to 20 ms.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from services.common.clock import Clock, WallClock
from services.common.errors import TemporaryError
from services.common.health import Health
from services.common.metrics import Metrics
from services.common.records import Message
from services.common.snapshots import SnapshotStore
from services.common.stage import Fold, Stage

log = logging.getLogger(__name__)

EXIT_FAULT = 70
"""Exit code of a process that ends itself before acknowledging what it could not do."""

FETCH_WAIT_MS = 20
QUEUE_MESSAGES = 2_000
BATCH_MESSAGES = 200


class _PositionsThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class _PositionsConsumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _PositionsThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek each assigned partition to the position of its fold."""
        positions = await self.transport.runtime.take_over(self.assignment())
        await self.seek_wait(positions)
        return positions  # type: ignore[no-any-return]


class _PositionsTransport(driver.Transport):  # type: ignore[misc]
    Consumer = _PositionsConsumer
    runtime: "Runtime"


class Runner:
    """One partition of one stage: takes what has come, folds it, waits for the effects, saves now and then."""

    def __init__(self, runtime: "Runtime", stage: Stage[Any], partition: int) -> None:
        self._runtime = runtime
        self._stage = stage
        self._partition = partition
        self._queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE_MESSAGES)
        self.closed = False
        self._steady = True
        snapshot = runtime.snapshots.newest(stage.topic.name, partition)
        self.fold: Fold[Any] = stage.open(partition, snapshot)
        self._saved = self.fold.next_offset
        self._saved_us = runtime.clock.now_us()
        self._task = asyncio.create_task(self._run())

    async def offer(self, message: Message) -> None:
        """Queue a message; waits when the queue is full, which holds the consumer back."""
        if not self.closed and message.offset >= self.fold.next_offset:
            await self._queue.put(message)

    async def close(self, save: bool) -> None:
        """Stop after the step in progress has no more effects; save the state when it is still ours."""
        self.closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if save and self._steady:
            await self._save()

    async def _run(self) -> None:
        try:
            while not self.closed:
                await self._step(await self._take())
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("step failed", extra={"topic": self._stage.topic.name, "partition": self._partition})
            os._exit(EXIT_FAULT)

    async def _take(self) -> list[Message]:
        batch = [await self._queue.get()]
        while len(batch) < BATCH_MESSAGES and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        # Rewound and doubled deliveries: only what continues the fold, each offset once.
        fresh, next_offset = [], self.fold.next_offset
        for message in batch:
            if message.offset >= next_offset:
                fresh.append(message)
                next_offset = message.offset + 1
        return fresh

    async def _step(self, batch: list[Message]) -> None:
        if not batch:
            return
        self._steady = False  # between apply and the last acknowledgement the state is ahead of its effects
        outputs = self.fold.apply(batch)
        await self._emit(outputs)
        self._steady = True
        if self.closed:
            return
        self._runtime.health.applied(self._stage.topic.name, self._partition, self.fold.next_offset)
        if self._runtime.clock.now_us() - self._saved_us >= self._runtime.snapshot_us:
            await self._save()

    async def _emit(self, outputs: Any) -> None:
        for attempt in range(self._runtime.attempts):
            try:
                await self._stage.emit(self._partition, outputs)
                return
            except TemporaryError as error:
                log.warning("emit failed, trying again", extra={"error": str(error), "attempt": attempt})
                await asyncio.sleep(min(2.0, 0.05 * 2**attempt))
                if self.closed:
                    return
        await self._stage.emit(self._partition, outputs)

    async def _save(self) -> None:
        self._saved_us = self._runtime.clock.now_us()
        if self.fold.next_offset == self._saved:
            return
        snapshot = self.fold.snapshot()
        await asyncio.to_thread(self._runtime.snapshots.save, self._stage.topic.name, self._partition, snapshot)
        self._saved = snapshot.next_offset
        self._runtime.saves.labels(self._stage.topic.name).inc()


class Runtime:
    """The stages of one service in one Faust app. `run()` returns after SIGTERM or SIGINT."""

    def __init__(
        self,
        service: str,
        bootstrap: str,
        stages: list[Stage[Any]],
        snapshots: SnapshotStore,
        health: Health,
        metrics: Metrics,
        *,
        instance: str = "",
        snapshot_seconds: float = 15.0,
        attempts: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self.snapshots = snapshots
        self.health = health
        self.clock = clock or WallClock()
        self.snapshot_us = int(snapshot_seconds * 1e6)
        self.attempts = attempts
        self.saves = metrics.counter("snapshots_total", "snapshots written", ("topic",))
        self._rebalances = metrics.counter("rebalances_total", "assignments taken over")
        self._stages = {stage.topic.name: stage for stage in stages}
        self._runners: dict[tuple[str, int], Runner] = {}
        self._taking = asyncio.Lock()
        self._stop = asyncio.Event()
        self.app = self._build_app(service, bootstrap, instance)

    def _build_app(self, service: str, bootstrap: str, instance: str) -> faust.App:
        app = faust.App(
            service,
            broker=";".join(f"kafka://{server}" for server in bootstrap.split(",")),
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            processing_guarantee="at_least_once",
            stream_wait_empty=False,
            broker_session_timeout=10,
            broker_heartbeat_interval=2,
            broker_commit_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=instance or None,
            consumer_max_fetch_size=8 * 1024 * 1024,
            loghandlers=[],
            logging_config={"version": 1, "disable_existing_loggers": False},
        )
        transport = _PositionsTransport(app.conf.broker_consumer, app)
        transport.runtime = self
        app.transport = transport
        for name in self._stages:
            self._declare(app, name)
        return app

    def _declare(self, app: faust.App, name: str) -> None:
        topic = app.topic(name, key_serializer="raw", value_serializer="raw")

        async def pass_on(stream: Any) -> None:
            async for event in stream.events():
                message = event.message
                runner = self._runners.get((name, message.partition))
                if runner is not None:
                    await runner.offer(Message(message.offset, message.value, int((message.timestamp or 0) * 1000)))

        app.agent(topic, name=f"{name}-agent", concurrency=1)(pass_on)

    async def take_over(self, assigned: set[TP]) -> dict[TP, int]:
        """Open and close runners so that they match the assignment; returns where each partition goes on."""
        async with self._taking:
            wanted = {(tp.topic, tp.partition): tp for tp in assigned if tp.topic in self._stages}
            for key in [key for key in self._runners if key not in wanted]:
                await self._runners.pop(key).close(save=False)
                self.health.revoked(*key)
            for key in wanted:
                if key not in self._runners:
                    self._runners[key] = Runner(self, self._stages[key[0]], key[1])
                    self.health.applied(*key, self._runners[key].fold.next_offset)
            self._rebalances.inc()
            self.health.ready = True
            return {tp: self._runners[key].fold.next_offset for key, tp in wanted.items()}

    def folds(self, topic: str) -> dict[int, Fold[Any]]:
        """The folds owned now, by partition."""
        return {p: runner.fold for (name, p), runner in self._runners.items() if name == topic}

    async def run(self, alongside: Callable[[], Any] | None = None) -> None:
        """Serve until a signal; then save every fold and leave the group. `alongside` runs beside it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self.app.start()
        extra = asyncio.create_task(alongside()) if alongside else None
        lag = asyncio.create_task(self._watch_lag())
        crashed = asyncio.create_task(self.app.wait_until_stopped())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({t for t in (crashed, stopping, extra) if t}, return_when=asyncio.FIRST_COMPLETED)
        failed = not stopping.done()
        for task in (extra, lag, crashed, stopping):
            if task:
                task.cancel()
        self.health.ready = False
        for runner in list(self._runners.values()):
            await runner.close(save=not failed)
        if failed:
            log.error("the stream ended by itself")
            os._exit(EXIT_FAULT)
        try:
            await asyncio.wait_for(self.app.stop(), timeout=5)
        except TimeoutError:
            log.warning("Faust did not stop in time")

    async def _watch_lag(self) -> None:
        while True:
            await asyncio.sleep(1)
            consumer = self.app.consumer
            ends = {key: consumer.highwater(TP(*key)) for key in self._runners}
            self.health.lag = sum(max(0, (end or 0) - self._runners[key].fold.next_offset) for key, end in ends.items())
