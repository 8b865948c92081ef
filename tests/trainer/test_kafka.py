"""The trainer on a real broker."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from services.common.errors import TemporaryError
from services.demo.kafka import Kafka
from services.trainer.kafka import KafkaSource
from tests.trainer.arm import arm, digest
from tests.trainer.world import Shop

pytestmark = pytest.mark.pipeline


def topic_with(kafka: Kafka, name: str, logs: dict[int, list[bytes]], keys: Sequence[bytes] = (b"",)) -> str:
    """A topic; `keys` are those of its messages, again and again."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, len(logs), 1)])[name].result(20)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    for partition, values in logs.items():
        for number, value in enumerate(values):
            producer.produce(name, value, partition=partition, key=keys[number % len(keys)] or None)
    producer.flush(20)
    return name


def drain(source: KafkaSource) -> dict[int, list[bytes]]:
    out: dict[int, list[bytes]] = {}
    while (batch := source.poll(2.0)) is not None:
        for partition, values in batch.messages.items():
            start, end = batch.ranges[partition]
            assert end - start == len(values)
            assert start == len(out.get(partition, []))
            out.setdefault(partition, []).extend(values)
    return out


def test_every_message_comes_once_in_order_and_the_lag_ends_at_nothing(
    kafka: Kafka, unique: Callable[[str], str]
) -> None:
    logs = {p: [f"{p}-{k}".encode() for k in range(500)] for p in range(3)}
    source = KafkaSource(kafka.bootstrap, 70, topic=topic_with(kafka, unique("examples"), logs))
    source.seek({})
    assert drain(source) == logs
    assert source.lag() == 0
    source.close()


def test_ranges_are_read_again_exactly(kafka: Kafka, unique: Callable[[str], str]) -> None:
    logs = {p: [f"{p}-{k}".encode() for k in range(300)] for p in range(2)}
    source = KafkaSource(kafka.bootstrap, 50, topic=topic_with(kafka, unique("examples"), logs))
    ranges = {0: (17, 120), 1: (0, 3)}
    assert source.read(ranges).messages == {p: logs[p][a:b] for p, (a, b) in ranges.items()}
    source.seek({0: 120, 1: 3})
    batch = source.poll(5.0)
    assert batch is not None
    assert all(batch.ranges[p][0] == ranges[p][1] for p in batch.ranges)
    source.close()


def test_what_kafka_cut_is_cut_the_same_after_a_crash(
    kafka: Kafka, unique: Callable[[str], str], tmp_path: Path
) -> None:
    shop = Shop(seed=5)
    topic = topic_with(kafka, unique("examples"), {0: shop.messages(60), 1: shop.messages(60)})
    source = KafkaSource(kafka.bootstrap, 7, topic=topic)
    loop, _ = arm(tmp_path / "whole", source)
    for _ in range(9):
        loop.turn()
    before = digest(loop.arm.learner)
    shutil.copytree(tmp_path / "whole", tmp_path / "crashed")  # the journal is all beyond the last checkpoint
    loop.arm.close()
    source.close()
    again = KafkaSource(kafka.bootstrap, 7, topic=topic)
    resumed, _ = arm(tmp_path / "crashed", again)
    assert digest(resumed.arm.learner) == before
    resumed.arm.close()
    again.close()


def test_examples_whose_labels_mean_something_else_are_passed_over(
    kafka: Kafka, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    values = [str(k).encode() for k in range(90)]
    topic = topic_with(kafka, unique("examples"), {0: values}, [b"click,cart", b"sale", b""])
    source = KafkaSource(kafka.bootstrap, 100, topic=topic, heads=["click", "cart"])
    wanted = [value for number, value in enumerate(values) if number % 3 != 1]
    assert source.read({0: (0, 90)}).messages == {0: wanted}
    assert [record.heads for record in caplog.records] == ["sale"]  # type: ignore[attr-defined]
    source.seek({0: 1})
    batch = source.poll(5.0)
    assert batch is not None
    assert batch.ranges[0][0] == 1
    source.close()


def test_a_topic_that_is_not_there_is_said(kafka: Kafka, unique: Callable[[str], str]) -> None:
    with pytest.raises(TemporaryError, match="topic"):
        KafkaSource(kafka.bootstrap, 7, topic=unique("nothing"))
