"""Sending and reading: what is refused and how, that nothing overtakes, that nothing read is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from services.common.errors import PermanentError, TemporaryError
from services.common.kafka import Outbox, Probe, Tail
from services.demo.kafka import Kafka, TopicSpec, create_topics
from tests.common.workers import until

NOWHERE = "127.0.0.1:1"


@contextlib.asynccontextmanager
async def outbox(bootstrap: str, *, ordered: bool = True, **config: object) -> AsyncIterator[Outbox]:
    made = Outbox(bootstrap, config={name.replace("_", "."): value for name, value in config.items()}, ordered=ordered)
    yield made
    made.close(timeout_s=0.0 if bootstrap == NOWHERE else 10.0)


async def test_a_record_that_stands_for_itself_fails_for_a_time_while_kafka_is_away() -> None:
    async with outbox(NOWHERE, ordered=False, delivery_timeout_ms=50, linger_ms=0) as out:
        with pytest.raises(TemporaryError, match="timed out"):
            await out.send("t", b"x")


async def test_a_record_that_stands_for_itself_fails_for_a_time_when_the_queue_is_full() -> None:
    async with outbox(NOWHERE, ordered=False, queue_buffering_max_messages=2) as out:
        sent = [out.send("t", b"x") for _ in range(3)]
        with pytest.raises(TemporaryError, match="full"):
            await sent[2]
        assert not sent[0].done()


async def test_an_ordered_record_waits_while_kafka_is_away_or_the_queue_is_full() -> None:
    async with outbox(NOWHERE, queue_buffering_max_messages=2) as out:
        sent = [out.send("t", b"x") for _ in range(5)]
        done, waiting = await asyncio.wait(sent, timeout=0.3)
        assert (len(done), len(waiting)) == (0, 5)
        assert out.close(timeout_s=0.0) == 5, "unsent records are told"


async def test_a_record_that_is_too_large_never_fits() -> None:
    async with outbox(NOWHERE, ordered=False) as out:
        with pytest.raises(PermanentError):
            await out.send("t", bytes(9 << 20))
        assert not out.send("t", b"x").done(), "another one may"


async def test_after_a_refused_record_an_ordered_outbox_sends_no_later_one() -> None:
    async with outbox(NOWHERE) as out:
        refused = out.send("t", bytes(9 << 20))
        with pytest.raises(PermanentError):
            await out.send("t", b"x")
        with pytest.raises(PermanentError):
            await refused
        assert isinstance(out.fault, PermanentError)


async def test_many_loops_end_while_records_are_on_their_way() -> None:
    def once() -> None:
        async def send() -> Outbox:
            out = Outbox(NOWHERE, ordered=False, config={"delivery.timeout.ms": 20, "linger.ms": 0})
            out.send("t", b"x")
            return out

        out = asyncio.run(send())
        out.close(timeout_s=0.2)  # the failure comes when nobody's loop is there any more

    await asyncio.to_thread(once)


class Script(Tail):
    """A reader that is handed its messages."""

    def __init__(self, *batches: list[Any]) -> None:
        self._batches = list(batches)
        self._error = None
        self.positions = {0: 0}

    def _consume(self, most: int, timeout_s: float) -> list[Any]:
        return self._batches.pop(0) if self._batches else []


class Given:
    """A message, or an error in its place."""

    def __init__(self, offset: int, error: int | None = None) -> None:
        self._offset, self._error = offset, error

    def error(self) -> KafkaError | None:
        return None if self._error is None else KafkaError(self._error)

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return b"%d" % self._offset


def test_records_read_before_an_error_are_not_lost_with_it() -> None:
    tail = Script([Given(0), Given(1), Given(-1, KafkaError._TRANSPORT), Given(2)], [Given(3)])
    assert [offset for _, offset, _, _, _ in tail.poll()] == [0, 1, 2]
    with pytest.raises(TemporaryError):
        tail.poll()
    assert [offset for _, offset, _, _, _ in tail.poll()] == [3]


def test_an_error_alone_is_raised_at_once() -> None:
    tail = Script([Given(-1, KafkaError._TRANSPORT)], [Given(0)])
    with pytest.raises(TemporaryError):
        tail.poll()
    assert len(tail.poll()) == 1


def test_the_end_of_a_partition_counts_though_its_last_offsets_hold_no_record() -> None:
    tail = Script([Given(0)], [], [Given(5, KafkaError._PARTITION_EOF)])
    assert [offset for _, offset, _, _, _ in tail.until({0: 5})] == [0]
    assert tail.positions == {0: 5}


@pytest.mark.parametrize(
    "reader", [lambda: Tail(NOWHERE, "t", answer_s=0.1), lambda: Probe(NOWHERE, 0.1).partitions("t")]
)
def test_readers_say_that_kafka_is_away(reader: Callable[[], object]) -> None:
    with pytest.raises(TemporaryError, match="did not answer"):
        reader()


@pytest.fixture
def topic(kafka: Kafka, unique: Callable[[str], str]) -> str:
    name = unique("records")
    create_topics(kafka.bootstrap, [TopicSpec(name, 2, {"max.message.bytes": "20000"})])
    return name


@pytest.fixture
def tail(kafka: Kafka, topic: str) -> Iterator[Tail]:
    made = Tail(kafka.bootstrap, topic)
    yield made
    made.close()


def values(tail: Tail, partition: int) -> list[bytes | None]:
    return [value for at, _, _, _, value in tail.until(tail.ends()) if at == partition]


@pytest.mark.pipeline
async def test_a_record_lies_where_its_future_says(kafka: Kafka, topic: str, tail: Tail) -> None:
    async with outbox(kafka.bootstrap) as out:
        assert await out.send(topic, b"a", partition=1) == (1, 0)
        assert await out.send(topic, b"b", partition=1, key=b"k", headers={"traceparent": b"00"}) == (1, 1)
        assert await out.send(topic, None, partition=0) == (0, 0)
    assert values(tail, 1) == [b"a", b"b"]


@pytest.mark.pipeline
async def test_nothing_overtakes_when_the_queue_is_full(kafka: Kafka, topic: str, tail: Tail) -> None:
    async with outbox(kafka.bootstrap, queue_buffering_max_messages=7) as out:
        places = await asyncio.gather(*(out.send(topic, b"%d" % n, partition=0) for n in range(1_000)))
    assert places == [(0, n) for n in range(1_000)]
    assert values(tail, 0) == [b"%d" % n for n in range(1_000)]


@pytest.mark.pipeline
async def test_a_topic_that_is_not_there_is_a_permanent_error(kafka: Kafka, unique: Callable[[str], str]) -> None:
    async with outbox(kafka.bootstrap, topic_metadata_propagation_max_ms=100) as out:
        with pytest.raises(PermanentError):
            await out.send(unique("absent"), b"x", partition=0)


@pytest.mark.pipeline
async def test_nothing_lies_behind_a_record_that_the_broker_refused(kafka: Kafka, topic: str, tail: Tail) -> None:
    async with outbox(kafka.bootstrap, compression_type="none", batch_num_messages=1) as out:
        await out.send(topic, b"before", partition=0)
        sent = [out.send(topic, value, partition=0) for value in (bytes(30_000), *[b"behind"] * 50)]
        results = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(results[0], PermanentError)
    assert values(tail, 0)[:1] == [b"before"]
    assert b"behind" not in values(tail, 0)


@pytest.mark.pipeline
def test_a_tail_begins_where_it_is_told_and_knows_the_ends(kafka: Kafka, topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for n in range(5):
        producer.produce(topic, b"%d" % n, partition=1)
    assert producer.flush(10) == 0
    with contextlib.closing(Tail(kafka.bootstrap, topic, {1: 3})) as tail:
        assert tail.ends() == {0: 0, 1: 5}
        assert values(tail, 1) == [b"3", b"4"]
        assert tail.positions == {0: 0, 1: 5}


@pytest.mark.pipeline
def test_a_record_that_is_there_is_not_kept_waiting_for_more(kafka: Kafka, topic: str, tail: Tail) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"x", partition=0)
    assert producer.flush(10) == 0
    # Far beyond the patience of anybody: waiting for 1,000 records would not end in this test.
    until(lambda: tail.poll(1_000, timeout_s=3_600.0), "one record")


@pytest.mark.pipeline
def test_markers_at_the_end_of_a_log_keep_nobody_waiting(kafka: Kafka, topic: str, tail: Tail) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    producer.commit_transaction(10)
    until(lambda: tail.ends()[0] == 2, "the marker, which comes after the answer")
    assert values(tail, 0) == [b"x"]
    with contextlib.closing(Probe(kafka.bootstrap)) as probe:
        assert probe.partitions(topic) == [0, 1]
        assert probe.bounds(topic, 0) == (0, 2)
        assert [probe.first_at(topic, 0, offset) for offset in (0, 1)] == [0, 2]


@pytest.mark.pipeline
def test_a_reader_of_an_absent_topic_says_so(kafka: Kafka, unique: Callable[[str], str]) -> None:
    name = unique("absent")
    with pytest.raises(TemporaryError, match=name):
        Tail(kafka.bootstrap, name)
