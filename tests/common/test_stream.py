"""What a worker promises when nothing goes wrong, and what it must never be."""

import signal
from collections.abc import Callable

import psutil
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient

from services.common.snapshots import unpack
from tests.common.workers import Pipeline, until

pytestmark = pytest.mark.pipeline

Make = Callable[..., Pipeline]


def test_every_message_is_applied_once_and_in_order(pipeline: Make) -> None:
    chain = pipeline(2)
    chain.write(0, 500)
    with chain.worker() as worker:
        until(lambda: worker.applied(0) == 500, "the first messages")
        chain.write(0, 300)
        chain.write(1, 200)
        chain.check(worker)
        assert worker.ask()["tracked"] == 0, "acknowledgements kept by Faust would grow for ever"
        assert worker.stop() == 0


def test_a_worker_is_what_its_program_says_whatever_the_environment(pipeline: Make) -> None:
    # Workers of these tests run with PROCESSING_GUARANTEE=exactly_once and APP_WEB_ENABLED=1.
    chain = pipeline(1)
    with chain.worker() as worker:
        until(lambda: 0 in worker.folds(), "the partition")
        state = worker.ask()
        assert state["concurrency"] == [1], "above 1 Faust commits past messages in flight"
        assert state["guarantee"] == "at_least_once"
        assert state["in_transaction"] is False
        assert state["web"] is False
        assert state["fetch"] == [80, 65_536], "a fetch would wait 1.5 s for partitions that have nothing"
        listening = [
            c.laddr for c in psutil.Process(worker.process.pid).net_connections("inet") if c.status == "LISTEN"
        ]
        assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", worker.port)]


def test_a_worker_that_is_asked_to_stop_saves_and_leaves_and_the_next_begins_right_there(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 6_000)
    with chain.worker(snapshot_seconds=3600, step_ms=50) as worker:
        until(lambda: worker.applied(0) > 500, "the middle of the work")
        assert worker.stop() == 0
    saved = unpack(chain.snapshots(0)[-1].read_bytes()).next_offset
    rows = chain.sink(0)
    assert 500 < saved < 6_000
    assert rows == list(enumerate(chain.chain(0, saved))), "no effect beyond what is saved, none missing"
    groups = AdminClient({"bootstrap.servers": chain.options.bootstrap})
    [left] = groups.describe_consumer_groups([chain.options.group]).values()
    assert not left.result(10).members
    with chain.worker() as worker:
        chain.check(worker)
        assert [line["position"] for line in worker.said("partition taken over")] == [0, saved]
    assert len(chain.sink(0)) == 6_000, "nothing was written twice"


def test_a_worker_that_is_asked_to_stop_while_it_starts_stops(pipeline: Make) -> None:
    with pipeline(1).worker() as worker:
        until(lambda: "Starting..." in worker.log, "the first signs of life")
        assert worker.stop() == 0


def test_what_is_shown_to_the_group_is_what_took_effect(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 100)
    with chain.worker() as worker:
        chain.check(worker)
        assert worker.stop() == 0
    groups = AdminClient({"bootstrap.servers": chain.options.bootstrap})
    [offsets] = groups.list_consumer_group_offsets([ConsumerGroupTopicPartitions(chain.options.group)]).values()
    assert [place.offset for place in offsets.result(10).topic_partitions] == [100]


def test_a_backlog_larger_than_every_buffer_is_worked_off(pipeline: Make) -> None:
    chain = pipeline(3)
    for partition in range(3):
        chain.write(partition, 5_000 * (partition + 1))
    with chain.worker(step_ms=20) as worker:
        chain.check(worker)
        until(lambda: worker.ask()["lag"] == 0, "the lag to be seen gone")


def test_a_member_with_a_name_comes_back_without_a_rebalance(pipeline: Make) -> None:
    chain = pipeline(2)
    with chain.worker("one", instance="one", session_seconds=10) as one:
        until(lambda: len(one.folds()) == 2, "both partitions")
        with chain.worker("two", instance="two", session_seconds=10) as two:
            until(lambda: len(one.folds()) == 1 and len(two.folds()) == 1, "one partition each")
            [mine], [others] = one.folds(), two.folds()
            before = _rebalances(one.ask("/metrics"))
            two.signal(signal.SIGKILL)
            two.ends()
            with chain.worker("two", instance="two", session_seconds=10) as again:
                until(lambda: list(again.folds()) == [others], "the same partition")
                chain.write(mine, 10)
                chain.write(others, 10)
                chain.check(one, again)
                assert _rebalances(one.ask("/metrics")) == before


def test_offsets_without_records_are_passed_over(pipeline: Make) -> None:
    chain = pipeline(1)
    producer = Producer({"bootstrap.servers": chain.options.bootstrap, "transactional.id": chain.options.group})
    producer.init_transactions(10)
    for _ in range(3):
        producer.begin_transaction()
        producer.produce(chain.options.source, b"in a transaction", partition=0)
        producer.commit_transaction(10)
    with chain.worker() as worker:
        # Behind each record lies a marker that no consumer sees.
        until(lambda: worker.folds().get(0, (0, 0, 0))[:2] == (5, 3), "three records of six offsets")
        assert worker.process.poll() is None


def _rebalances(metrics: str) -> str:
    return next(line for line in metrics.splitlines() if line.startswith("freshrank_test_rebalances_total "))
