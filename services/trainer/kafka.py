"""Examples from Kafka: a plain consumer with `assign`, so that positions are the checkpoint's and nobody else's."""

import logging
from collections.abc import Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from services.common.broker import Address, broker
from services.common.errors import TemporaryError
from services.common.records import heads_key
from services.common.topics import EXAMPLES
from services.common.tracing import trace_of
from services.trainer.examples import Batch, Ranges

log = logging.getLogger(__name__)

_PATIENCE = 60
"""Empty polls of half a second in a row after which re-reading is given up."""


class KafkaSource:
    """All partitions of `examples` in one consumer; no group, no commits."""

    def __init__(
        self,
        bootstrap: Address,
        most: int,
        gather_s: float = 0.0,
        topic: str = EXAMPLES.name,
        heads: Sequence[str] = (),
    ) -> None:
        """`most`: messages of one batch; `gather_s`: how long a batch waits for more after its first message.

        `heads`: what is learned, in the order of label bits; messages about others are passed over, because the same
        bit would mean something else. Empty = whatever comes.

        Raises TemporaryError when the topic is not there.
        """
        self._most, self._gather_s, self._topic = most, gather_s, topic
        self._key = heads_key(heads) if heads else None
        self._others: set[bytes] = set()
        self._broker = broker(bootstrap)
        self._watch, self._consumer = self._broker.watch(), self._make()
        try:
            found = self._consumer.list_topics(topic, timeout=10).topics[topic]
        except KafkaException as error:
            raise TemporaryError(f"Kafka: {error}") from error
        if found.error is not None or not found.partitions:
            raise TemporaryError(f"topic {topic}: {found.error}")
        self.partitions = sorted(found.partitions)
        self._next: dict[int, int] = {}

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._assign({p: positions.get(p, OFFSET_BEGINNING) for p in self.partitions})

    def poll(self, timeout_s: float) -> Batch | None:
        """See `Source`: after the first message, `gather_s` for those that share its update."""
        self._renew()
        first = self._consumer.poll(timeout_s)
        if first is None:
            return None
        return self._batch([first, *self._consumer.consume(self._most - 1, self._gather_s)])

    def read(self, ranges: Ranges) -> Batch:
        """See `Source`."""
        self._assign({p: start for p, (start, _) in ranges.items()})
        messages: list[Message] = []
        empty = 0
        while any(self._next[p] < end for p, (_, end) in ranges.items()):
            self._renew()
            found = self._consumer.consume(self._most, 0.5)
            empty = 0 if found else empty + 1
            if empty >= _PATIENCE:
                raise TemporaryError(f"{self._topic}: offsets {ranges} do not come")
            for message in self._checked(found):
                partition, offset = message.partition(), message.offset()
                self._passed(partition, offset)
                if ranges[partition][0] <= offset < ranges[partition][1]:
                    messages.append(message)
        values, offsets = self._values(messages)
        return Batch(dict(ranges), values, offsets=offsets)

    def lag(self) -> int:
        """Messages that the broker has and we have not taken, as of the last fetch."""
        lag = 0
        for partition, position in self._next.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            lag += max(0, high - max(0, position))
        return lag

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _make(self) -> Consumer:
        own = {
            "group.id": "trainer",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 250,
            "fetch.message.max.bytes": 8_388_608,
        }
        return Consumer({**self._broker.config(), **own})

    def _renew(self) -> None:
        if (made := self._watch.renewed(self._make, KafkaException)) is not None:
            old, self._consumer = self._consumer, made
            self._assign(self._next)
            old.close()

    def _assign(self, positions: Mapping[int, int]) -> None:
        self._next = dict(positions)
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])

    def _batch(self, messages: Sequence[Message]) -> Batch:
        found = self._checked(messages)
        firsts: dict[int, int] = {}
        for message in found:
            firsts.setdefault(message.partition(), message.offset())
            self._passed(message.partition(), message.offset())
        traces = tuple(filter(None, (trace_of(message.headers()) for message in found)))
        values, offsets = self._values(found)
        return Batch({p: (first, self._next[p]) for p, first in firsts.items()}, values, traces, offsets)

    def _passed(self, partition: int, offset: int) -> None:
        if 0 <= self._next[partition] < offset:
            # Learning goes on: what the broker no longer holds can only be had from the archive.
            extra = {"partition": partition, "wanted": self._next[partition], "found": offset}
            log.error("examples are gone from the log", extra=extra)
        self._next[partition] = offset + 1

    def _checked(self, messages: Sequence[Message]) -> list[Message]:
        for message in messages:
            if message.error() is not None:
                raise TemporaryError(f"{self._topic}: {message.error()}")
        return list(messages)

    def _values(self, messages: Sequence[Message]) -> tuple[dict[int, list[bytes]], dict[int, list[int]]]:
        values: dict[int, list[bytes]] = {}
        offsets: dict[int, list[int]] = {}
        for message in messages:
            if self._of_others(message.key()):
                continue
            values.setdefault(message.partition(), []).append(message.value() or b"")
            offsets.setdefault(message.partition(), []).append(message.offset())
        return values, offsets

    def _of_others(self, key: bytes | None) -> bool:
        if not key or self._key is None or key == self._key:
            return False
        if key not in self._others:
            self._others.add(key)
            extra = {"heads": key.decode(errors="replace"), "learned": self._key.decode()}
            log.error("examples of other heads are passed over: LOSS_WEIGHTS names those that are learned", extra=extra)
        return True
