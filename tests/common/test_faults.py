"""Kill it, stop it, take its partitions, spoil its files: the state stays the fold of the log."""

import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from services.common.snapshots import SnapshotStore, unpack
from services.common.stage import Snapshot
from services.demo.stack import Stack
from services.demo.tools import Tools
from tests.common.workers import Pipeline, Worker, until

pytestmark = pytest.mark.pipeline

Make = Callable[..., Pipeline]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_killed_at_random_points_loses_nothing_and_applies_nothing_twice(pipeline: Make, seed: int) -> None:
    noise, chain = random.Random(seed), pipeline(2)
    for _ in range(2):
        for partition in range(2):
            chain.write(partition, noise.randrange(200, 1_500))
        goal = int(sum(map(chain.written, range(2))) * noise.random())
        with chain.worker(instance="one", step_ms=5) as worker:
            until(partial(_applied, worker, goal), "some progress")
            worker.signal(signal.SIGKILL)
            assert worker.ends() == -signal.SIGKILL
    with chain.worker(instance="one") as worker:
        chain.check(worker)


def test_a_worker_that_joins_takes_some_and_the_rewound_rest_is_not_applied_again(pipeline: Make) -> None:
    chain = pipeline(4)
    for partition in range(4):
        chain.write(partition, 300)
    with chain.worker("one") as one:
        chain.check(one)
        with chain.worker("two") as two:
            until(lambda: len(one.folds()) == 2 and len(two.folds()) == 2, "two partitions each")
            for partition in range(4):
                chain.write(partition, 300)
            chain.check(one, two)
            for kept in one.folds():
                assert len(chain.sink(kept)) == 600, "what a worker keeps it does not do again"
            assert two.stop() == 0
        until(lambda: len(one.folds()) == 4, "all partitions back")
        for partition in range(4):
            chain.write(partition, 100)
        chain.check(one)
        assert one.stop() == 0


def test_a_worker_that_loses_its_only_partition_stops_working_on_it(pipeline: Make) -> None:
    chain = pipeline(1)
    with chain.worker("one") as one:
        until(lambda: list(one.folds()) == [0], "the partition")
        with chain.worker("two") as two:
            # With one partition one of the two is left with nothing: Faust does not even seek then.
            until(lambda: len(one.folds()) + len(two.folds()) == 1 and two.ask("/readyz") == "ok", "an idle worker")
            chain.write(0, 200)
            until(lambda: chain.done(one, two), "the messages")
            assert len(chain.sink(0)) == 200, "one of them alone wrote"


def test_a_partition_moves_while_its_queue_is_full_and_nothing_hangs(pipeline: Make) -> None:
    chain = pipeline(2)
    for partition in range(2):
        chain.write(partition, 6_000)
    holding = Path(chain.options.folder) / "holding"
    with chain.worker("one", holds_at=500) as one:
        until(holding.exists, "a step that does not end, before a backlog larger than the queue")
        with chain.worker("two") as two:
            until(lambda: len(two.folds()) == 1, "a partition to move")
            [moved] = two.folds()
            until(lambda: two.applied(moved) == 6_000, "all of it, by its new owner")
            assert list(one.folds()) == [1 - moved]
            while one.applied(1 - moved) < 6_000:
                holding.unlink(missing_ok=True)
            chain.check(one, two)
            assert one.stop() == 0


def test_an_old_owner_that_wakes_up_in_the_middle_of_a_step_does_no_harm(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 100)
    holding = Path(chain.options.folder) / "holding"
    with chain.worker("old", holds_at=150) as old:
        until(lambda: old.applied(0) == 100, "the old owner's part")
        chain.write(0, 100)
        until(holding.exists, "a step in progress")
        old.signal(signal.SIGSTOP)
        with chain.worker("new", snapshot_seconds=0) as new:
            until(lambda: new.applied(0) == 200, "the session to end and the partition to move")
            chain.write(0, 300)
            until(lambda: new.applied(0) == 500 and _newest(chain) > 200, "the new owner's part on disk")
            newest = _newest(chain)
            holding.unlink()
            old.signal(signal.SIGCONT)
            # Back in the group the old owner loses the partition, or is given it again and goes on behind the new one.
            until(lambda: old.said("partition given up") or new.said("partition given up"), "the two to agree")
            assert _newest(chain) >= newest, "a late snapshot never beats a newer one"
            chain.write(0, 100)
            until(lambda: chain.done(old, new), "the rest")
            assert (0 in old.folds()) + (0 in new.folds()) == 1
            owner = old if 0 in old.folds() else new
            chain.check_sink(0)
            assert owner.folds()[0] == (600, 600, chain.chain(0)[-1])
    with chain.worker("third") as third:
        chain.check(third)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="torn"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="one bit"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_spoilt_snapshot_gives_way_to_the_one_before(pipeline: Make, spoil: Callable[[bytes], bytes]) -> None:
    chain = pipeline(1)
    with chain.worker(snapshot_seconds=0) as worker:
        for part in range(1, 4):
            chain.write(0, 100)
            until(lambda part=part: worker.applied(0) == 100 * part, "a part")
        assert worker.stop() == 0
    *_, before, newest = chain.snapshots(0)
    newest.write_bytes(spoil(newest.read_bytes()))
    expected = unpack(before.read_bytes()).next_offset
    with chain.worker() as worker:
        chain.check(worker)
        assert worker.said("partition taken over")[-1]["position"] == expected < 300
        assert [Path(line["path"]).name for line in worker.said("snapshot skipped")] == [newest.name]


def test_a_fault_in_the_fold_ends_the_process_before_anything_is_lost(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 300)
    with chain.worker(fails_at=150) as worker:
        assert worker.ends() == 70
        assert "a fault in the fold" in worker.said("step failed")[0]["exception"]
    assert all(offset < 150 for offset, _ in chain.sink(0))
    with chain.worker() as worker:
        chain.check(worker)


def test_a_fold_that_does_not_open_ends_the_process_instead_of_hanging(pipeline: Make) -> None:
    chain = pipeline(1)
    with chain.worker(opens=False) as worker:
        assert worker.ends() == 70
        assert "does not open" in worker.said("partitions cannot be taken over")[0]["exception"]


def test_effects_that_fail_for_a_time_are_tried_again(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 300)
    with chain.worker(refused=3) as worker:
        chain.check(worker)
        assert len(worker.said("emit failed, trying again")) == 3


def test_effects_that_go_on_failing_end_the_process_and_are_done_by_the_next(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 300)
    with chain.worker(refused=1_000, attempts=2) as worker:
        assert worker.ends() == 70
    with chain.worker() as worker:
        chain.check(worker)


def test_a_state_of_another_log_is_refused(pipeline: Make) -> None:
    chain = pipeline(1)
    chain.write(0, 10)
    SnapshotStore(Path(chain.options.folder)).save(
        chain.options.source, 0, Snapshot(11, {"state": np.zeros(2, np.int64)})
    )
    with chain.worker() as worker:
        assert worker.ends() == 70
        assert "is this another log?" in worker.said("partitions cannot be taken over")[0]["exception"]


def test_a_disk_that_takes_no_snapshot_stops_no_stream(pipeline: Make) -> None:
    chain = pipeline(1)
    (Path(chain.options.folder) / f"{chain.options.source}-0").write_text("a file where the folder should be")
    chain.write(0, 100)
    with chain.worker(snapshot_seconds=0) as worker:
        chain.check(worker)
        assert "freshrank_test_snapshot_failures_total" in worker.ask("/metrics")
        assert worker.said("snapshot not written")
        assert worker.stop() == 0


def test_a_worker_without_its_topic_or_without_kafka_says_so_and_ends(pipeline: Make) -> None:
    chain = pipeline(1)
    with chain.worker("away", bootstrap="127.0.0.1:1") as away, chain.worker("typo", source="no-such-topic") as typo:
        assert (typo.ends(), away.ends()) == (1, 1)
        assert "TemporaryError: topic no-such-topic" in typo.log
        assert "TemporaryError: Kafka did not answer" in away.log


def test_a_broker_that_dies_and_comes_back_costs_nothing_but_time(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path / "stack", parts=["kafka"], tools=tools) as stack:
        chain = Pipeline(stack.kafka, "chain", tmp_path, 2)
        chain.write(0, 2_000)
        with chain.worker(step_ms=10) as worker:
            until(lambda: worker.applied(0) > 300, "some progress")
            stack.kill("kafka")
            stack.restart("kafka")
            chain.write(0, 100)
            chain.write(1, 100)
            _check_across_restarts(chain, worker)


def _check_across_restarts(chain: Pipeline, worker: Worker) -> None:
    """As a supervisor would: a worker that ended itself is started again."""
    until(lambda: chain.done(worker) or worker.process.poll() is not None, "everything, or the end of the worker")
    if worker.process.poll() is None:
        chain.check(worker)
        return
    assert worker.process.returncode == 70
    with chain.worker("again") as again:
        chain.check(again)


def _applied(worker: Worker, goal: int) -> bool:
    return sum(count for _, count, _ in worker.folds().values()) >= goal


def _newest(chain: Pipeline) -> int:
    return max((int(path.stem) for path in chain.snapshots(0)), default=0)
