"""Reading Kafka beside a stream: whole topics without a group, and what a log holds."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from services.common.broker import Address, Broker, broker
from services.common.errors import TemporaryError

ANSWER_S = 10.0
"""For Kafka to answer a question; what is not answered by then raises TemporaryError."""

_AGAIN_S = 0.1

_TAIL_WAIT_MS, _PROBE_WAIT_MS = 250, 20
"""A fetch is answered by the first record, or with nothing after so long: the price of a quiet topic, and the time in
which the end of a log is known."""

Record = tuple[int, int, int, bytes | None, bytes | None]
"""Partition, offset, timestamp in ms, key, value."""


class Tail:
    """Reads whole partitions of a topic from given offsets (the beginning by default) without a group.

    For compacted topics held in memory, and for readers that keep their positions themselves. Not thread-safe.
    Raises TemporaryError when Kafka or the topic is not there.
    """

    def __init__(
        self, bootstrap: Address, topic: str, positions: Mapping[int, int] | None = None, answer_s: float = ANSWER_S
    ) -> None:
        self._broker = broker(bootstrap)
        self._watch = self._broker.watch()
        self._consumer = _reader(self._broker, _TAIL_WAIT_MS)
        self._answer_s = answer_s
        self._topic = topic
        self._error: TemporaryError | None = None
        try:
            self.partitions = _partitions(self._consumer, topic, answer_s)
            self.positions = {p: (positions or {}).get(p, self._watermarks(p)[0]) for p in self.partitions}
            self._assign()
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
        self._renew()
        # Asked for many, the client waits the whole time for all of them: wait for one, then take what is there.
        messages: list[Any] = self._consumer.consume(1, timeout_s)
        return messages + self._consumer.consume(most - 1, 0) if messages and most > 1 else messages

    def _assign(self) -> None:
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in self.positions.items()])

    def _renew(self) -> None:
        """Go on in a new client when certificates were replaced: a client keeps those it was made with."""
        if (made := self._watch.renewed(lambda: _reader(self._broker, _TAIL_WAIT_MS), KafkaException)) is not None:
            old, self._consumer = self._consumer, made
            self._assign()
            old.close()

    def _watermarks(self, partition: int) -> tuple[int, int]:
        return _watermarks(self._consumer, self._topic, partition, self._answer_s)


class Probe:
    """Looks at logs from outside a stream, over a connection of its own: what a stalled stream cannot see.

    Every call raises TemporaryError when Kafka does not answer. Safe to use from several threads.
    """

    def __init__(self, bootstrap: Address, answer_s: float = ANSWER_S) -> None:
        self._broker = broker(bootstrap)
        self._watch = self._broker.watch()
        self._consumer = _reader(self._broker, _PROBE_WAIT_MS)
        self._answer_s = answer_s
        self._lock, self._renewing = threading.Lock(), threading.Lock()

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic."""
        return _partitions(self._current(), topic, self._answer_s)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset the log still has, and the next one to be written."""
        return _watermarks(self._current(), topic, partition, self._answer_s)

    def first_at(self, topic: str, partition: int, offset: int) -> int:
        """The offset of the first record at or after an offset; the end of the log when there is none."""
        with self._lock:
            consumer = self._current()
            consumer.assign([TopicPartition(topic, partition, offset)])
            try:
                for message in consumer.consume(1, self._answer_s):
                    if message.error() is None or message.error().code() == KafkaError._PARTITION_EOF:
                        return int(message.offset())
                    raise TemporaryError(str(message.error()))
            finally:
                consumer.unassign()
        raise TemporaryError(f"nothing read from {topic}-{partition} at {offset}")

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _current(self) -> Consumer:
        with self._renewing:
            made = self._watch.renewed(lambda: _reader(self._broker, _PROBE_WAIT_MS), KafkaException)
            self._consumer = made or self._consumer  # the old one goes when the last call in it has ended
            return self._consumer


def _reader(broker: Broker, wait_ms: int) -> Consumer:
    # Not all of its users poll, so its log lines have no other way out than standard error: only the grave ones.
    return Consumer(
        {
            **broker.config(),
            "group.id": "unused",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": wait_ms,
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
    # Errors pass: leaders move, and those of a new topic are not known at once.
    until, error = time.monotonic() + answer_s, KafkaException("no answer")
    while (left := until - time.monotonic()) > 0:
        try:
            bounds = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=left)
            if bounds is not None:
                low, high = bounds
                return low, high
        except KafkaException as failure:
            error = failure
            time.sleep(min(_AGAIN_S, left))
    raise TemporaryError(f"{topic}-{partition}: Kafka did not answer: {error}") from error
