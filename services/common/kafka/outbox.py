"""Sending to Kafka: acknowledged, idempotent, in order."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from services.common.broker import Address, broker
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

_PARTING_S = 30.0
"""For what was sent under replaced certificates to be acknowledged."""

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

    When certificates are replaced a new producer takes over; an ordered one begins when all is acknowledged that the
    old one has.
    """

    def __init__(
        self,
        bootstrap: Address,
        linger_ms: float = 1.0,
        config: Mapping[str, object] | None = None,
        *,
        ordered: bool = True,
        headers: Callable[[], Mapping[str, bytes]] = dict,
    ) -> None:
        """`headers`: of each record that is sent without its own."""
        self._ordered, self._headers = ordered, headers
        self._broker = broker(bootstrap)
        self._watch = self._broker.watch()
        self._config: dict[str, object] = {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": linger_ms,
            "partitioner": "murmur2_random",
            "message.max.bytes": 8_388_608,
            "delivery.timeout.ms": 0 if ordered else 30_000,  # 0: never given up
            "topic.metadata.propagation.max.ms": 5_000,
            "reconnect.backoff.max.ms": 1_000,
            "compression.type": "lz4",
            **({"enable.gapless.guarantee": True} if ordered else {}),
            **(config or {}),
        }
        self._producer = self._make()
        self._old: Producer | None = None
        self._parting_until = 0.0
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
        sent = list((self._headers() if headers is None else headers).items())
        record: dict[str, Any] = {"topic": topic, "value": value, "key": key, "headers": sent}
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

    def _make(self) -> Producer:
        return Producer({**self._broker.config(), **self._config}, logger=log)

    def _flush(self) -> int:
        left = 0
        for producer in filter(None, (self._old, self._producer)):
            try:
                left += int(producer.flush(0.1))
            except KafkaException:  # told to the senders by the polling thread
                left += len(producer)
        return left

    def _produce(self, record: dict[str, Any], future: "asyncio.Future[Ack]") -> bool:
        """False when the queue is full, or is not to be used yet. The lock is held."""
        if self._ordered and self._old is not None:
            return False

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
                if self._old is not None:
                    self._old.poll(0.002)
                self._producer.poll(0.002 if self._waiting or self._old is not None else 0.1)
                self._renew()
            except KafkaException as error:  # fatal: this producer sends nothing any more
                with self._lock:
                    self._fault = self._fault or PermanentError(str(error.args[0]))
            with self._lock:
                if self._fault is not None:
                    self._give_up(self._fault)
                while self._waiting and self._produce(*self._waiting[0]):
                    self._waiting.popleft()

    def _renew(self) -> None:
        if self._old is not None:
            if not len(self._old):
                self._old = None
            elif self._ordered and self._left_behind():
                raise KafkaException("what was sent under replaced certificates cannot be sent any more")
        elif (made := self._watch.renewed(self._make, KafkaException)) is not None:
            with self._lock:
                self._old, self._producer = self._producer, made
            self._parting_until = time.monotonic() + _PARTING_S

    def _left_behind(self) -> bool:
        """True when Kafka is there for the new certificates, but takes nothing more under the old ones."""
        if time.monotonic() < self._parting_until:
            return False
        self._parting_until += _PARTING_S
        try:
            return bool(self._producer.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def _give_up(self, fault: FreshrankError) -> None:
        # Records that are still queued would wait for ever: nothing else ends them.
        for producer in filter(None, (self._old, self._producer)):
            producer.purge(in_queue=True, in_flight=True, blocking=False)
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
