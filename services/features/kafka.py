"""The service's ends in Kafka: the two stages, and the reader that fills new features from the log."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from freshrank.v1.models_pb2 import ItemFeatures

from services.common.broker import Address, broker
from services.common.errors import InvalidInput, TemporaryError
from services.common.kafka import Outbox, Probe
from services.common.letters import dead_letter
from services.common.plans import Plan
from services.common.records import Message
from services.common.stage import Snapshot
from services.common.topics import DEAD_LETTERS, INTERACTIONS, ITEM_INTERACTIONS, ITEM_UPDATES, Topic
from services.features.archive import FeatureArchive
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.feast import OnlineSink, epoch_of
from services.features.fold import Outputs, ViewsFold
from services.features.meters import Meters
from services.features.views import ViewRows

log = logging.getLogger(__name__)

_NUMBERS = frozenset({"INT32", "INT64", "FLOAT32", "FLOAT64", "BOOL"})
_VALUES_TAG = bytes([ItemFeatures.VALUES_FIELD_NUMBER << 3 | 2])
_READ_MESSAGES = 500


class TimedFold:
    """A fold whose steps are counted."""

    def __init__(self, topic: str, fold: ViewsFold, meters: Meters) -> None:
        self._topic, self.fold, self._meters = topic, fold, meters

    @property
    def next_offset(self) -> int:
        """The fold's position."""
        return self.fold.next_offset

    @next_offset.setter
    def next_offset(self, offset: int) -> None:
        self.fold.next_offset = offset

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """As the fold does it."""
        started = time.perf_counter()
        out = self.fold.apply(messages)
        self._meters.folded(self._topic, time.perf_counter() - started, out)
        return out

    def snapshot(self) -> Snapshot:
        """As the fold does it."""
        return self.fold.snapshot()


class Pace:
    """Keeps the steps of a busy partition apart: more rows in a step cost less each. An idle one does not wait."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._last: dict[int, float] = {}

    async def wait(self, partition: int) -> None:
        """Sleep until a step may follow the last one."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._last.get(partition, 0.0) + self._step_s - now))
        self._last[partition] = max(now, self._last.get(partition, 0.0) + self._step_s)


class FeatureStage:
    """What the two stages share: a fold by the current plan, and values into the online store."""

    topic: Topic

    def __init__(
        self,
        pace: Pace,
        outbox: Outbox,
        due_rows: int,
        plan: Callable[[], Plan],
        keep: Callable[[int], bool],
        sink: OnlineSink,
        archive: FeatureArchive,
        meters: Meters,
        reader: "LogReader",
    ) -> None:
        self._pace, self._outbox, self._due_rows = pace, outbox, due_rows
        self._plan, self._keep, self._sink = plan, keep, sink
        self._folds: dict[int, ViewsFold] = {}
        self._archive, self._meters, self._log = archive, meters, reader

    def open(self, partition: int, snapshot: Snapshot | None) -> TimedFold:
        """The fold of a partition, brought to the current plan.

        Far behind the end of the log it publishes nothing until it has come to where the end is now.
        """
        fold = self._new(partition)
        if snapshot is not None:
            fold.restore(snapshot)
            fold.replan(self._plan().views, self._keep)
        try:
            fold.publish_from = self._log.end(self.topic.name, partition)
        except TemporaryError as error:
            log.warning("the end of the log is not known, publishing all the way", extra={"error": str(error)})
        self._folds[partition] = fold
        return TimedFold(self.topic.name, fold, self._meters)

    def _new(self, partition: int) -> ViewsFold:
        raise NotImplementedError

    async def _refuse(self, partition: int, malformed: Sequence[tuple[Message, str]]) -> None:
        letters = [_letter(self.topic, partition, message, why) for message, why in malformed]
        await asyncio.gather(*(self._outbox.send(DEAD_LETTERS.name, letter, key=b"features") for letter in letters))

    async def _write(self, partition: int, views: Sequence[ViewRows]) -> None:
        fold = self._folds[partition]
        fold.writing = True
        try:
            await self._store(partition, fold, views)
        finally:
            fold.writing = False
        if views:
            await self._pace.wait(partition)

    async def _store(self, partition: int, fold: ViewsFold, views: Sequence[ViewRows]) -> None:
        for rows in views:
            held = await self._sink.write(rows, epoch_of(fold, rows.view))
            if not held and rows.view in fold.views:
                fold.views[rows.view].publish_all()  # another worker found the store empty and raised the epoch
            self._archive.add(self.topic.name, partition, rows)
            if rows.view in fold.views:
                self._meters.held(rows.view, partition, len(fold.views[rows.view].keys))


class UserStage(FeatureStage):
    """interactions to values of users and sessions, and to rows for the item stage."""

    topic = INTERACTIONS

    def __init__(self, partitions: int, *args: Any) -> None:
        super().__init__(*args)
        self._partitions = partitions

    def _new(self, partition: int) -> ViewsFold:
        return UserFold(self._plan().views, partition, self._partitions, self._due_rows)

    async def emit(self, partition: int, outputs: Outputs) -> None:
        """Send and store everything; ends when all of it is acknowledged."""
        for user, offset, before_us in outputs.forgotten:
            await asyncio.to_thread(self._archive.forget, user, partition, offset, before_us)
        await asyncio.gather(
            *(self._send(target, messages) for target, messages in outputs.items.items()),
            self._write(partition, outputs.views),
            self._refuse(partition, outputs.malformed),
        )

    async def _send(self, target: int, messages: Sequence[bytes]) -> None:
        for message in messages:  # one after the other: a gap would make the item stage take later rows for all
            await self._outbox.send(ITEM_INTERACTIONS.name, message, partition=target)


class ItemStage(FeatureStage):
    """item_interactions to values of items and queries, in the online store and on item_updates."""

    topic = ITEM_INTERACTIONS

    def __init__(self, partitions: int, *args: Any) -> None:
        super().__init__(*args)
        self._partitions = partitions

    def _new(self, partition: int) -> ViewsFold:
        return ItemFold(self._plan().views, self._due_rows, partition, self._partitions)

    async def emit(self, partition: int, outputs: Outputs) -> None:
        """Store everything and tell the gateways; ends when all of it is acknowledged."""
        updates: list[tuple[bytes, bytes | None]] = [u for rows in outputs.views for u in item_updates(rows)]
        updates += [query_update(*news) for news in outputs.queries]
        sent = [self._outbox.send(ITEM_UPDATES.name, value, key=key) for key, value in updates]
        await asyncio.gather(self._write(partition, outputs.views), self._refuse(partition, outputs.malformed), *sent)


def _letter(topic: Topic, partition: int, message: Message, why: str) -> bytes:
    error, time_us = InvalidInput("value", "malformed", why), message.timestamp_ms * 1000
    return dead_letter("features", topic.name, error, message.value, partition, message.offset, 0, time_us)


def item_updates(rows: ViewRows) -> Iterator[tuple[bytes, bytes]]:
    """Key and serialized ItemFeatures of each row of a view keyed by item alone; numbers only, NaN for null."""
    names = [name for name, kind in rows.kinds.items() if kind in _NUMBERS and name in rows.columns]
    if rows.join_keys != ("item_id",) or not names:
        return
    values = np.empty((len(rows.keys), len(names)), "<f4")
    for place, name in enumerate(names):
        column = rows.columns[name]
        if isinstance(column.values, np.ndarray):
            values[:, place] = column.values
            if column.nulls is not None:
                values[column.nulls, place] = np.nan
        else:
            values[:, place] = np.nan
    head = ItemFeatures(ids=[rows.ids[name] for name in names]).SerializeToString()
    tag = _VALUES_TAG + _varint(4 * len(names))
    prefix = f"f|{rows.view}|"
    for (item,), row, event_us in zip(rows.keys, values, rows.event_us.tolist(), strict=True):
        tail = ItemFeatures(pos=rows.position, time_us=event_us).SerializeToString()
        yield (prefix + item).encode(), head + tag + row.tobytes() + tail


def query_update(query: str, shoppers: int, time_us: int) -> tuple[bytes, bytes | None]:
    """Key and value that tell how many shoppers search for a query; none when they are too few.

    >>> query_update("red shoes", 0, 0)
    (b'q|red shoes', None)
    """
    value = ItemFeatures(values=[shoppers], time_us=time_us).SerializeToString() if shoppers else None
    return f"q|{query}".encode(), value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


class LogReader:
    """Reads one partition from its start: what a new feature is filled from."""

    def __init__(self, bootstrap: Address) -> None:
        self._probe = Probe(bootstrap)
        self._broker = broker(bootstrap)
        self._config: dict[str, object] = {
            "group.id": "unused", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "fetch.wait.max.ms": 20,
        }  # fmt: skip

    def end(self, topic: str, partition: int) -> int:
        """The next offset that would be written now. Raises TemporaryError."""
        return self._probe.bounds(topic, partition)[1]

    def below(self, topic: str, partition: int, end: int) -> Iterator[list[Message]]:
        """Everything the log holds below `end`, some hundred messages at a time. Raises TemporaryError."""
        return self.between(topic, partition, 0, end)

    def between(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Message]]:
        """What the log holds from `start` up to, not including, `end`. Raises TemporaryError."""
        consumer = Consumer({**self._broker.config(), **self._config})
        try:
            at = max(self._probe.bounds(topic, partition)[0], start)
            consumer.assign([TopicPartition(topic, partition, at)])
            while at < end:
                found = self._consume(consumer)
                at = found[-1].offset + 1 if found else at
                yield [message for message in found if message.offset < end]
        except KafkaException as error:
            raise TemporaryError(f"{topic}: {error}") from error
        finally:
            consumer.close()

    def close(self) -> None:
        """Leave the broker."""
        self._probe.close()

    @staticmethod
    def _consume(consumer: Consumer) -> list[Message]:
        out = []
        for message in consumer.consume(_READ_MESSAGES, 1.0):
            if message.error() is not None:
                raise TemporaryError(str(message.error()))
            out.append(Message(message.offset(), message.value(), message.timestamp()[1]))
        return out
