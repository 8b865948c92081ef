"""Sending to Kafka and reading compacted topics: acknowledged, idempotent, without surprises."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from services.common.errors import FreshrankError, PermanentError, TemporaryError

Ack = tuple[int, int]
"""Partition and offset where a record lies."""

_Outcome = tuple["asyncio.Future[Ack]", FreshrankError | None, Ack]

_PERMANENT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._FATAL,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.INVALID_RECORD,
    }
)

ANSWER_S = 10.0
"""For Kafka to answer a question; what is not answered by then raises TemporaryError."""

log = logging.getLogger(__name__)


class Outbox:
    """An idempotent producer with acks=all for one asyncio loop.

    `send` returns a future of the record's place. Failures become TemporaryError, or PermanentError
    when no repetition can help (too large, unknown topic).

    Readers of derived topics drop rows that are not newer than the last one they saw. So a record must never lie in a
    partition without the ones sent before it, not even when those are sent again later. An ordered outbox therefore
    never gives a record up while Kafka is away, keeps the order when its queue is full, and once one record is
    refused for good refuses all that follow. With `ordered=False` each record stands for itself: it fails with
    TemporaryError when the queue is full or Kafka does not take it within 30 s.
    """

    def __init__(
        self,
        bootstrap: str,
        linger_ms: float = 1.0,
        config: Mapping[str, object] | None = None,
        *,
        ordered: bool = True,
    ) -> None:
        self._ordered = ordered
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "enable.gapless.guarantee": ordered,
                "acks": "all",
                "linger.ms": linger_ms,
                "partitioner": "murmur2_random",
                "message.max.bytes": 8_388_608,
                "delivery.timeout.ms": 0 if ordered else 30_000,  # 0: never given up
                "topic.metadata.propagation.max.ms": 5_000,
                "reconnect.backoff.max.ms": 1_000,
                "compression.type": "lz4",
                **(config or {}),
            },
            logger=log,
        )
        self._running = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: list[_Outcome] = []
        self._lock = threading.Lock()
        self._waiting: deque[tuple[dict[str, Any], asyncio.Future[Ack]]] = deque()
        self._fault: FreshrankError | None = None
        self._thread = threading.Thread(target=self._poll, name="outbox", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = -1,
        key: bytes | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> "asyncio.Future[Ack]":
        """Queue a record; the future holds its partition and offset once all replicas have it."""
        self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[Ack] = self._loop.create_future()
        record: dict[str, Any] = {"topic": topic, "value": value, "key": key, "headers": list((headers or {}).items())}
        if partition >= 0:
            record["partition"] = partition
        with self._lock:
            if self._fault is not None:
                future.set_exception(self._fault)
            elif self._waiting or not self._produce(record, future):
                self._wait(record, future)
        return future

    @property
    def fault(self) -> FreshrankError | None:
        """Why nothing can be sent any more; a process that sees one must be started again."""
        return self._fault

    def close(self, timeout_s: float = 10.0) -> int:
        """Send what is queued and stop; returns the number of records still unsent."""
        until = time.monotonic() + timeout_s
        while (left := self._flush() + len(self._waiting)) and time.monotonic() < until:
            pass
        self._running = False
        self._thread.join(timeout=2)
        return left

    def _flush(self) -> int:
        try:
            return int(self._producer.flush(0.1))
        except KafkaException:  # told to the senders by the polling thread
            return len(self._producer)

    def _produce(self, record: dict[str, Any], future: "asyncio.Future[Ack]") -> bool:
        """False when the queue is full. The lock is held."""

        def delivered(error: KafkaError | None, message: Any) -> None:
            place = (message.partition(), message.offset()) if message is not None else (-1, -1)
            self._resolve(future, _failure(error) if error is not None else None, place)

        try:
            self._producer.produce(**record, on_delivery=delivered)
        except BufferError:
            return False
        except KafkaException as error:
            self._settle_later((future, self._remember(_failure(error.args[0])), (-1, -1)))
        return True

    def _wait(self, record: dict[str, Any], future: "asyncio.Future[Ack]") -> None:
        if self._ordered:
            self._waiting.append((record, future))
        else:
            future.set_exception(TemporaryError("the send queue is full"))

    def _poll(self) -> None:
        while self._running:
            try:
                self._producer.poll(0.002 if self._waiting else 0.1)
            except KafkaException as error:  # fatal: this producer sends nothing any more
                with self._lock:
                    self._fault = self._fault or PermanentError(str(error.args[0]))
            with self._lock:
                if self._fault is not None:
                    self._give_up(self._fault)
                while self._waiting and self._produce(*self._waiting[0]):
                    self._waiting.popleft()

    def _give_up(self, fault: FreshrankError) -> None:
        # Records that are still queued would wait for ever: nothing else ends them.
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)
        while self._waiting:
            self._settle_later((self._waiting.popleft()[1], fault, (-1, -1)))

    def _remember(self, error: FreshrankError) -> FreshrankError:
        if not self._ordered:
            return error
        self._fault = self._fault or error
        return self._fault

    def _resolve(self, future: "asyncio.Future[Ack]", error: FreshrankError | None, place: Ack) -> None:
        # Called in the polling thread, once per record.
        with self._lock:
            self._settle_later((future, self._remember(error) if error is not None else None, place))

    def _settle_later(self, outcome: _Outcome) -> None:
        # One wake-up of the loop serves all that came meanwhile. The lock is held.
        self._done.append(outcome)
        if len(self._done) == 1 and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for future, error, place in done:
            if future.done():
                continue
            if error is None:
                future.set_result(place)
            else:
                future.set_exception(error)


def _failure(error: KafkaError) -> FreshrankError:
    permanent = error.code() in _PERMANENT or error.fatal()
    return (PermanentError if permanent else TemporaryError)(str(error))


Record = tuple[int, int, int, bytes | None, bytes | None]
"""Partition, offset, timestamp in ms, key, value."""


class Tail:
    """Reads whole partitions of a topic from given offsets (the beginning by default) without a group.

    For compacted topics held in memory, and for readers that keep their positions themselves. Not thread-safe.
    Raises TemporaryError when Kafka or the topic is not there.
    """

    def __init__(
        self, bootstrap: str, topic: str, positions: Mapping[int, int] | None = None, answer_s: float = ANSWER_S
    ) -> None:
        self._consumer = _reader(bootstrap)
        self._answer_s = answer_s
        self._topic = topic
        self._error: TemporaryError | None = None
        try:
            self.partitions = _partitions(self._consumer, topic, answer_s)
            self.positions = {p: (positions or {}).get(p, self._watermarks(p)[0]) for p in self.partitions}
            self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in self.positions.items()])
        except BaseException:
            self._consumer.close()
            raise

    def ends(self) -> dict[int, int]:
        """The next offset of each partition that would be written now."""
        return {p: self._watermarks(p)[1] for p in self.partitions}

    def poll(self, most: int = 1000, timeout_s: float = 0.1) -> list[Record]:
        """The next records, at most `most`; empty after the timeout. Raises TemporaryError on broker faults."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        out: list[Record] = []
        for message in self._consume(most, timeout_s):
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is None:
                self.positions[partition] = offset + 1
                out.append((partition, offset, message.timestamp()[1], message.key(), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:
                # Behind the last record there can be offsets without one: markers, and what compaction removed.
                self.positions[partition] = offset
            else:
                self._error = TemporaryError(str(error))
        if self._error is not None and not out:
            return self.poll()
        return out  # an error among them is raised by the next call: the records before it are not lost

    def until(self, ends: Mapping[int, int], stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Records up to the given ends, for reading a topic whole before starting."""
        while not stop() and any(self.positions[p] < end for p, end in ends.items()):
            yield from self.poll()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _consume(self, most: int, timeout_s: float) -> list[Any]:
        messages: list[Any] = self._consumer.consume(most, timeout_s)
        return messages

    def _watermarks(self, partition: int) -> tuple[int, int]:
        return _watermarks(self._consumer, self._topic, partition, self._answer_s)


class Probe:
    """Looks at logs from outside a stream, over a connection of its own: what a stalled stream cannot see.

    Every call raises TemporaryError when Kafka does not answer. Safe to use from several threads.
    """

    def __init__(self, bootstrap: str, answer_s: float = ANSWER_S) -> None:
        self._consumer = _reader(bootstrap)
        self._answer_s = answer_s
        self._lock = threading.Lock()

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic."""
        return _partitions(self._consumer, topic, self._answer_s)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset the log still has, and the next one to be written."""
        return _watermarks(self._consumer, topic, partition, self._answer_s)

    def first_at(self, topic: str, partition: int, offset: int) -> int:
        """The offset of the first record at or after an offset; the end of the log when there is none."""
        with self._lock:
            self._consumer.assign([TopicPartition(topic, partition, offset)])
            try:
                for message in self._consumer.consume(1, self._answer_s):
                    if message.error() is None or message.error().code() == KafkaError._PARTITION_EOF:
                        return int(message.offset())
                    raise TemporaryError(str(message.error()))
            finally:
                self._consumer.unassign()
        raise TemporaryError(f"nothing read from {topic}-{partition} at {offset}")

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _reader(bootstrap: str) -> Consumer:
    # Not all of its users poll, so its log lines have no other way out than standard error: only the grave ones.
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
            "enable.partition.eof": True,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 2,
        }
    )


def _partitions(consumer: Consumer, topic: str, answer_s: float) -> list[int]:
    try:
        known = consumer.list_topics(topic, timeout=answer_s).topics[topic]
    except KafkaException as error:
        raise TemporaryError(f"Kafka did not answer: {error}") from error
    if known.error is not None or not known.partitions:
        raise TemporaryError(f"topic {topic}: {known.error or 'has no partitions yet'}")
    return sorted(known.partitions)


def _watermarks(consumer: Consumer, topic: str, partition: int, answer_s: float) -> tuple[int, int]:
    try:
        bounds = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=answer_s)
    except KafkaException as error:
        raise TemporaryError(f"{topic}-{partition}: {error}") from error
    if bounds is None:
        raise TemporaryError(f"{topic}-{partition}: Kafka did not answer in {answer_s:.0f} s")
    low, high = bounds
    return low, high
