"""Sending to Kafka and reading compacted topics: acknowledged, idempotent, without surprises."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from services.common.errors import FreshrankError, PermanentError, TemporaryError

Ack = tuple[int, int]
"""Partition and offset where a record lies."""


class Outbox:
    """An idempotent producer with acks=all for one asyncio loop.

    `send` returns a future of the record's place. Failures become TemporaryError, or PermanentError
    when no repetition can help (too large, unknown topic).
    """

    def __init__(self, bootstrap: str, linger_ms: float = 1.0, config: Mapping[str, object] | None = None) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": linger_ms,
                "partitioner": "murmur2_random",
                "message.max.bytes": 8_388_608,
                "delivery.timeout.ms": 30_000,
                "compression.type": "lz4",
                **(config or {}),
            }
        )
        self._running = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: list[tuple[asyncio.Future[Ack], FreshrankError | None, Ack]] = []
        self._lock = threading.Lock()
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

        def delivered(error: KafkaError | None, message: object) -> None:
            place = (message.partition(), message.offset()) if message is not None else (-1, -1)  # type: ignore[attr-defined]
            self._resolve(future, _failure(error) if error is not None else None, place)

        pairs = list((headers or {}).items())
        try:
            if partition >= 0:
                self._producer.produce(topic, value, key=key, partition=partition, headers=pairs, on_delivery=delivered)
            else:
                self._producer.produce(topic, value, key=key, headers=pairs, on_delivery=delivered)
        except BufferError:
            future.set_exception(TemporaryError("the send queue is full"))
        except KafkaException as error:
            future.set_exception(_failure(error.args[0]))
        return future

    def close(self, timeout_s: float = 10.0) -> int:
        """Send what is queued and stop; returns the number of records still unsent."""
        left: int = self._producer.flush(timeout_s)
        self._running = False
        self._thread.join(timeout=2)
        return left

    def _poll(self) -> None:
        while self._running:
            self._producer.poll(0.1)

    def _resolve(self, future: "asyncio.Future[Ack]", error: FreshrankError | None, place: Ack) -> None:
        # Called in the polling thread, once per record: one wake-up of the loop serves all that came meanwhile.
        with self._lock:
            self._done.append((future, error, place))
            if len(self._done) > 1 or self._loop is None or self._loop.is_closed():
                return
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        for future, error, place in done:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(place)
            else:
                future.set_exception(error)


def _failure(error: KafkaError) -> FreshrankError:
    permanent = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC)
    return (PermanentError if error.code() in permanent else TemporaryError)(str(error))


Record = tuple[int, int, int, bytes | None, bytes | None]
"""Partition, offset, timestamp in ms, key, value."""


class Tail:
    """Reads whole topics without a group: from given positions, or from the start, and then on."""

    def __init__(self, bootstrap: str, topic: str, positions: Mapping[int, int] | None = None) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "enable.partition.eof": False,
            }
        )
        self._topic = topic
        known = self._consumer.list_topics(topic, timeout=10).topics[topic]
        if known.error is not None:
            raise TemporaryError(f"topic {topic}: {known.error}")
        self.partitions = sorted(known.partitions)
        self.positions = {p: (positions or {}).get(p, self._low(p)) for p in self.partitions}
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in self.positions.items()])

    def ends(self) -> dict[int, int]:
        """The next offset of each partition that would be written now."""
        return {
            p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=10)[1]
            for p in self.partitions
        }

    def poll(self, most: int = 1000, timeout_s: float = 0.1) -> list[Record]:
        """The next records, at most `most`; empty after the timeout. Raises TemporaryError on broker faults."""
        out: list[Record] = []
        for message in self._consumer.consume(most, timeout_s):
            error = message.error()
            if error is not None:
                raise TemporaryError(str(error))
            partition, offset = message.partition(), message.offset()
            self.positions[partition] = offset + 1
            out.append((partition, offset, message.timestamp()[1], message.key(), message.value()))
        return out

    def until(self, ends: Mapping[int, int], stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
        """Records up to the given ends, for reading a topic whole before starting."""
        while not stop() and any(self.positions[p] < end for p, end in ends.items()):
            yield from self.poll()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _low(self, partition: int) -> int:
        low: int = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=10)[0]
        return low
