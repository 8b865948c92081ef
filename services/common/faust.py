"""Runs stages on Faust: group, assignment and flow are Faust's, positions and state are ours.

What Faust does that its users must know, and what stands against it here:

* it seeks every assigned partition to the committed offset last, after all callbacks, and rewinds partitions
  a worker keeps: `_PositionsConsumer` answers with the positions of the folds, and a runner takes each offset once;
* it hands over one message in several turns of the event loop: `getmany` and the agents here pass on all there are;
* it says nothing to `seek_to_committed` of a worker that lost its last partition, and carries on when a seek took too
  long or failed: lost partitions are released in `on_partitions_assigned`, and what fails or hangs there ends the
  process;
* an old owner may still be inside a step when a partition has moved: its runner is closed and the step cancelled;
* an exception that leaves an agent acknowledges the message: nothing leaves ours, a fault ends the process;
* its acknowledgements grow without bound behind a gap: they are off, and the group's offsets are the applied positions;
* concurrency above 1 commits past messages in flight: agents here have concurrency 1, scale by partitions;
* exactly_once has open faults: at-least-once with idempotent effects instead;
* variables such as PROCESSING_GUARANTEE or APP_WEB_ENABLED override what the program says: they are not read;
* its web server shows table contents and binds all addresses: it is never started;
* one fetch waits up to 1.5 s for partitions that have nothing: the wait is set to 80 ms;
* it pauses partitions whose buffer is full, and sleeps 1 s when all are: a full buffer here just holds back;
* a consumer can stall without a word: a probe on a connection of its own sees the log grow.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import faust
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from services.common.broker import MECHANISM, Address, Broker, broker
from services.common.clock import Clock, WallClock
from services.common.errors import TemporaryError
from services.common.health import Health
from services.common.kafka import Probe
from services.common.metrics import Metrics
from services.common.partitions import Partitions
from services.common.records import Message
from services.common.snapshots import SnapshotStore
from services.common.stage import Fold, Stage
from services.common.tls import RenewingContext
from services.common.tracing import Tracing, trace_of

log = logging.getLogger(__name__)

EXIT_FAULT = 70
"""Exit code of a process that ends itself before acknowledging what it could not do."""

FETCH_WAIT_MS, FETCH_BYTES = 80, 65_536
"""A fetch is answered when so much has come or so long has passed: at 500 messages/s less than half the work of
answering each at once; and an idle broker is asked a dozen times a second, not fifty."""

BUFFER_MESSAGES = 256
"""Between Faust's fetcher and our runners, all partitions of a topic together; the runners hold the rest."""

TAKE_OVER_SECONDS = 60.0
"""To read snapshots and seek. Faust itself waits 90 s and then carries on as if it were done."""

STOP_SECONDS, SHOW_SECONDS = 5.0, 1.0
WATCH_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
"""Python lets a busy thread keep the interpreter 5 ms: an archive being written beside the folds would stretch every
step that lets go of it, as each call into Arrow does, to many times its length."""
PROBE_EVERY = 5
"""Looks at the log's true end are so many times rarer than looks at what the consumer says of it."""


class _Settings(faust.Settings):  # type: ignore[misc]
    def getenv(self, env_name: str) -> Any:
        """Nothing: settings come from this program."""
        return None


class _App(faust.App):  # type: ignore[misc]
    Settings = _Settings

    def _create_directories(self) -> None:
        """None: state lies in snapshots."""


class _PositionsThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        wait_ms = transport.runtime.fetch_wait_ms
        consumer._fetch_max_wait_ms = wait_ms or FETCH_WAIT_MS
        consumer._fetch_min_bytes = FETCH_BYTES if wait_ms else 1
        return consumer

    async def show(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit."""
        await self.call_thread(self._ensure_consumer().commit, dict(offsets))


class _PositionsConsumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _PositionsThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Stop work on what is not ours any more, first of all."""
        await self.transport.runtime.release(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: a full buffer holds the fetcher back by itself, all paused partitions make it sleep a second."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek each assigned partition to the position of its fold."""
        return await self.transport.runtime.settle(self)  # type: ignore[no-any-return]

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """What was fetched: into its agent's queue at once while there is room, else by Faust's way for Faust to wait.

        That way takes two tasks and three turns of the event loop for each message. Between turns folds make their
        steps, so a busy service would get fewer messages the longer its steps are, and its steps would stay small.
        """
        async for tp, message in super().getmany(timeout):
            if self.transport.runtime.has_room(tp.topic) and self._awaited(tp, message.offset):
                await self.callback(message)
                self._read_offset[tp] = message.offset
            else:
                yield tp, message

    def _awaited(self, tp: TP, offset: int) -> bool:
        at = self._read_offset[tp]
        return bool(self.flow_active and self.app.flow_control.is_active() and (at is None or offset >= at))

    def highwater(self, tp: TP) -> int | None:
        """The end of a partition as of the last fetch; None when it is not known, or not ours any more."""
        try:
            return super().highwater(tp)  # type: ignore[no-any-return]
        except AssertionError:
            return None


class _PositionsTransport(driver.Transport):  # type: ignore[misc]
    Consumer = _PositionsConsumer
    runtime: "Runtime"


class Runtime:
    """The stages of one service in one Faust app. `run()` returns after SIGTERM or SIGINT."""

    def __init__(
        self,
        service: str,
        bootstrap: Address,
        stages: list[Stage[Any]],
        snapshots: SnapshotStore,
        health: Health,
        metrics: Metrics,
        *,
        instance: str = "",
        snapshot_seconds: float = 15.0,
        session_seconds: float = 10.0,
        attempts: int = 8,
        fetch_wait_ms: int = FETCH_WAIT_MS,
        clock: Clock | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self.health, self.fetch_wait_ms = health, fetch_wait_ms
        self._topics = [stage.topic.name for stage in stages]
        self._probe = Probe(bootstrap)
        self.partitions = Partitions(
            stages,
            snapshots,
            health,
            metrics,
            clock or WallClock(),
            self._probe,
            _fail,
            snapshot_seconds=snapshot_seconds,
            attempts=attempts,
            tracing=tracing or Tracing(service),
        )
        self._queues: dict[str, Any] = {}
        self._rebalances = metrics.counter("rebalances_total", "assignments taken over")
        self._taking = asyncio.Lock()
        self._stop = asyncio.Event()
        self.app = self._build_app(service, broker(bootstrap), instance, session_seconds)

    def _build_app(self, service: str, brokers: Broker, instance: str, session_seconds: float) -> faust.App:
        app = _App(
            service,
            broker=";".join(f"kafka://{server}" for server in brokers.bootstrap.split(",")),
            broker_credentials=_credentials(brokers),
            store="memory://",
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            processing_guarantee="at_least_once",
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFER_MESSAGES,
            broker_session_timeout=session_seconds,
            broker_heartbeat_interval=session_seconds / 5,
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=instance or None,
            consumer_max_fetch_size=8 * 1024 * 1024,
            consumer_metadata_max_age_ms=10_000,
            loghandlers=[],
            logging_config={"version": 1, "disable_existing_loggers": False},
        )
        transport = _PositionsTransport(app.conf.broker_consumer, app)
        transport.runtime = self
        app.transport = transport
        for name in self._topics:
            self._declare(app, name)
        return app

    def _declare(self, app: faust.App, name: str) -> None:
        topic = app.topic(name, key_serializer="raw", value_serializer="raw", acks=False)

        async def pass_on(stream: Any) -> None:
            self._queues[name] = queue = stream.channel.queue
            async for event in stream.noack().events():
                await self._take(name, event.message)
                while queue.qsize() and not queue._errors:  # a stream gives one event per turn of the loop
                    await self._take(name, queue.get_nowait().message)

        app.agent(topic, name=f"{name}-agent", concurrency=1)(pass_on)

    async def _take(self, topic: str, message: Any) -> None:
        trace = trace_of(message.headers)
        taken = Message(message.offset, message.value or b"", int((message.timestamp or 0) * 1000), trace)
        try:
            await self.partitions.offer(topic, message.partition, taken)
        except Exception:
            log.exception("message not taken", extra={"topic": topic, "partition": message.partition})
            _fail()

    def has_room(self, topic: str) -> bool:
        """True when the agent of a topic can be given a message without waiting."""
        return topic in self._queues and not self._queues[topic].full()

    async def release(self, assigned: set[TP]) -> None:
        """Stop work on what is not ours any more; a fault ends the process."""
        try:
            async with self._taking:
                await self.partitions.release(assigned)
        except Exception:
            log.exception("partitions cannot be given up")
            _fail()
        if not assigned:
            self.health.ready = True  # a worker that waits for others to leave is as ready as it can be

    async def settle(self, consumer: Any) -> dict[TP, int]:
        """Open folds for what is assigned and let the consumer go on where they are; a fault ends the process."""
        try:
            async with asyncio.timeout(TAKE_OVER_SECONDS), self._taking:
                places = await self.partitions.take_over(consumer.assignment())
                positions = {TP(*place): position for place, position in places.items()}
                # Inside the lock: a seek to positions that were asked for earlier must not come last.
                await consumer.seek_wait(positions)
        except IllegalStateError:
            raise  # the next rebalance has begun; Faust comes again
        except Exception:
            log.exception("partitions cannot be taken over")
            _fail()
        self._rebalances.inc()
        self.health.ready = True
        return positions

    def folds(self, topic: str) -> dict[int, Fold[Any]]:
        """The folds owned now, by partition."""
        return self.partitions.folds(topic)

    async def run(self, alongside: Callable[[], Any] | None = None) -> None:
        """Serve until a signal; then save every fold and leave the group. `alongside` runs beside it.

        Raises TemporaryError when Kafka or a topic is not there at the start. A fault ends the process.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        for name in self._topics:
            await asyncio.to_thread(self._probe.partitions, name)
        tasks = [asyncio.create_task(self._serve(), name="stream"), asyncio.create_task(self._watch(), name="watch")]
        if alongside is not None:
            tasks.append(asyncio.create_task(alongside(), name="alongside"))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        self.health.ready = False
        if not stopping.done():
            _tell_why(tasks)
            _fail()
        await self._leave(tasks)

    async def _serve(self) -> None:
        await self.app.start()
        await self.app.wait_until_stopped()

    async def _leave(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks[1:]:
            task.cancel()
        await self.partitions.close()
        await _within(SHOW_SECONDS, self._show())
        await _within(STOP_SECONDS, self.app.stop())
        tasks[0].cancel()
        self._probe.close()

    async def _watch(self) -> None:
        showing = asyncio.create_task(self._show())
        for turn in range(1 << 62):
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.partitions.measure(self._known_end, probe=turn % PROBE_EVERY == 0)
            except TemporaryError as error:
                log.warning("the ends of the log are not known", extra={"error": str(error)})
            if showing.done():  # it waits as long as Kafka is away
                showing = asyncio.create_task(self._show())

    def _known_end(self, topic: str, partition: int) -> int | None:
        end: int | None = self.app.consumer.highwater(TP(topic, partition))
        return end

    async def _show(self) -> None:
        """Commit positions for people to see the lag; nothing here reads them, so failing does not matter."""
        offsets = {TopicPartition(*place): at for place, at in self.partitions.applied().items() if at}
        if offsets and not self.app.rebalancing:
            try:
                await self.app.consumer._thread.show(offsets)
            except Exception as error:
                log.info("positions not committed", extra={"error": str(error)})


def _credentials(broker: Broker) -> Any:
    context = RenewingContext(broker.tls) if broker.tls else None
    if broker.username:
        user = {"username": broker.username, "password": broker.password()}
        return faust.SASLCredentials(**user, ssl_context=context, mechanism=MECHANISM)
    return faust.SSLCredentials(context) if context else None


def _fail() -> NoReturn:
    logging.shutdown()
    os._exit(EXIT_FAULT)


def _tell_why(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            log.error("%s ended by itself", task.get_name(), exc_info=task.exception())


async def _within(seconds: float, what: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(what, seconds)
    except TimeoutError:
        log.warning("did not stop in time")
