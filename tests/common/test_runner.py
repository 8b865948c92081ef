"""One partition: order, positions, backpressure, saving and closing, without a broker and without waiting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from services.common import runner as runners
from services.common.clock import ManualClock
from services.common.errors import CorruptState, PermanentError, TemporaryError
from services.common.health import Health
from services.common.metrics import Metrics
from services.common.partitions import Partitions
from services.common.records import Message
from services.common.runner import Runner, Surroundings
from services.common.snapshots import SnapshotStore
from services.common.stage import Snapshot
from services.common.topics import Topic
from services.common.tracing import Tracing

Offsets = list[int]


class Memory:
    """A fold that remembers every offset."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self.next_offset = snapshot.next_offset if snapshot else 0
        self.seen: Offsets = list(snapshot.meta["seen"]) if snapshot else []

    def apply(self, messages: Sequence[Message]) -> Offsets:
        offsets = [message.offset for message in messages]
        assert not offsets or offsets[0] >= self.next_offset
        if any(message.value == b"fault" for message in messages):
            raise ValueError("a fault in the fold")
        self.seen += offsets
        self.next_offset = offsets[-1] + 1
        return offsets

    def snapshot(self) -> Snapshot:
        return Snapshot(self.next_offset, meta={"seen": list(self.seen)})


class Memories:
    """A stage whose effects the test lets through or refuses."""

    topic = Topic("t", "", "", (), ())

    def __init__(self) -> None:
        self.emitted: list[Offsets] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []
        self.stubborn = False

    def open(self, partition: int, snapshot: Snapshot | None) -> Memory:
        return Memory(snapshot)

    async def emit(self, partition: int, outputs: Offsets) -> None:
        if self.errors:
            raise self.errors.pop(0)
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        self.emitted.append(outputs)


@dataclass
class Log:
    """What a probe would see."""

    start: int = 0
    end: int = 1_000_000
    first: dict[int, int] = field(default_factory=dict)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return self.start, self.end

    def first_at(self, topic: str, partition: int, offset: int) -> int:
        return self.first.get(offset, offset)


class Bench:
    """Partitions of one stage with everything around them in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.stage, self.log, self.clock = Memories(), Log(), ManualClock(1)
        self.health, self.metrics = Health(self.clock), Metrics("test")
        self.store = SnapshotStore(folder)
        self.failures = 0
        self.partitions = Partitions(
            [self.stage],
            self.store,
            self.health,
            self.metrics,
            self.clock,
            self.log,  # type: ignore[arg-type]
            self.fail,
            snapshot_seconds=15,
            attempts=3,
            tracing=Tracing("test"),
        )

    def fail(self) -> None:
        self.failures += 1

    async def own(self, *partitions: int) -> dict[tuple[str, int], int]:
        places = {("t", partition) for partition in partitions}
        await self.partitions.release(places)
        return await self.partitions.take_over(places)

    async def offer(self, *offsets: int, partition: int = 0, value: bytes = b"x") -> None:
        for offset in offsets:
            await self.partitions.offer("t", partition, Message(offset, value))

    def seen(self, partition: int = 0) -> Offsets:
        fold = self.partitions.folds("t")[partition]
        assert isinstance(fold, Memory)
        return fold.seen

    def saved(self, partition: int = 0) -> int:
        newest = self.store.newest("t", partition)
        return newest.next_offset if newest else 0


async def no_hole(topic: str, partition: int, wanted: int, found: int) -> None:
    """Nothing is missing."""


def surroundings(bench: Bench) -> Surroundings:
    """For a runner without `Partitions`."""
    counter = Metrics("test").counter("saves_total", "", ("topic",))
    return Surroundings(
        snapshots=bench.store,
        health=bench.health,
        clock=bench.clock,
        snapshot_us=15_000_000,
        attempts=1,
        saves=counter,
        failed_saves=counter,
        hole=no_hole,
        fail=bench.fail,
    )


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stage.gate.set()
    made.stage.stubborn = False
    await made.partitions.release(set())


async def until(what: Callable[[], object]) -> None:
    """Let the tasks run until something is so."""
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0)


async def test_messages_are_applied_in_order_and_each_offset_once(bench: Bench) -> None:
    await bench.own(0)
    await bench.offer(0, 1, 2, 1, 2, 0, 3, 3, 4)
    await until(lambda: bench.partitions.applied() == {("t", 0): 5})
    assert bench.seen() == [0, 1, 2, 3, 4]
    assert sum(bench.stage.emitted, []) == [0, 1, 2, 3, 4]


async def test_what_is_rewound_while_it_still_waits_is_not_taken_twice(bench: Bench) -> None:
    bench.stage.gate.clear()
    await bench.own(0)
    await bench.offer(0, 1, 2)
    await until(lambda: bench.seen() == [0, 1, 2])
    await bench.offer(3, 4)
    assert await bench.own(0) == {("t", 0): 3}, "the consumer is sent back to what is folded"
    await bench.offer(3, 4, 5)
    bench.stage.gate.set()
    await until(lambda: bench.partitions.applied() == {("t", 0): 6})
    assert bench.seen() == [0, 1, 2, 3, 4, 5]


async def test_nothing_counts_as_applied_before_its_effects_are_acknowledged(bench: Bench) -> None:
    bench.stage.gate.clear()
    await bench.own(0)
    await bench.offer(0, 1)
    await until(lambda: bench.seen() == [0, 1])
    await bench.partitions.measure(lambda topic, partition: 2, probe=False)
    assert bench.partitions.applied() == {("t", 0): 0}
    assert (bench.health.positions()["applied"], bench.health.lag) == ({"t-0": 0}, 2)
    bench.stage.gate.set()
    await until(lambda: bench.partitions.applied() == {("t", 0): 2})
    await bench.partitions.measure(lambda topic, partition: 2, probe=False)
    assert (bench.health.positions()["applied"], bench.health.lag) == ({"t-0": 2}, 0)


async def test_a_log_that_grows_without_the_consumer_seeing_it_is_a_stall(bench: Bench) -> None:
    await bench.own(0)
    bench.log.end = 3
    await bench.partitions.measure(lambda topic, partition: None, probe=False)
    bench.clock.advance_to(100_000_000)
    assert bench.health.live()
    await bench.partitions.measure(lambda topic, partition: None, probe=True)
    bench.clock.advance_to(200_000_000)
    assert not bench.health.live()


async def test_a_snapshot_is_of_the_state_whose_effects_are_done(bench: Bench) -> None:
    await bench.own(0)
    await bench.offer(0)
    await until(lambda: bench.partitions.applied() == {("t", 0): 1})
    assert bench.saved() == 0, "not due"
    bench.clock.advance_to(16_000_000)
    await bench.offer(1)
    await until(lambda: bench.seen() == [0, 1])
    bench.stage.gate.clear()
    await bench.offer(2)
    await until(lambda: bench.saved() == 2)
    newest = bench.store.newest("t", 0)
    assert newest is not None
    assert newest.meta == {"seen": [0, 1]}


async def test_a_partition_that_moved_has_no_more_effects_and_no_snapshot(bench: Bench) -> None:
    await bench.own(0, 1)
    bench.stage.gate.clear()
    await bench.offer(0, 1)
    await until(lambda: bench.seen() == [0, 1])
    await bench.own(1)
    bench.stage.gate.set()
    await bench.offer(2)
    await bench.offer(0, partition=1)
    await until(lambda: bench.seen(1) == [0])
    assert bench.stage.emitted == [[0]]
    assert bench.saved() == 0
    assert list(bench.partitions.folds("t")) == [1]
    assert bench.health.positions()["applied"] == {"t-1": 1}


async def test_a_partition_that_comes_back_starts_from_its_snapshot(bench: Bench) -> None:
    await bench.own(0)
    await bench.offer(0, 1)
    await until(lambda: bench.partitions.applied() == {("t", 0): 2})
    await bench.own()
    bench.store.save("t", 0, Snapshot(5, meta={"seen": [0, 1, 2, 3, 4]}))
    assert await bench.own(0) == {("t", 0): 5}
    await bench.offer(4, 5)
    await until(lambda: bench.partitions.applied() == {("t", 0): 6})
    assert bench.seen() == [0, 1, 2, 3, 4, 5]


async def test_a_full_queue_holds_the_consumer_back_and_lets_go_when_the_partition_moves(bench: Bench) -> None:
    bench.stage.gate.clear()
    await bench.own(0)
    await bench.offer(0)
    await until(lambda: bench.seen() == [0])
    await bench.offer(*range(1, 1 + runners.HELD_MESSAGES))
    held_back = asyncio.create_task(bench.offer(1 + runners.HELD_MESSAGES))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not held_back.done()
    await bench.own()
    async with asyncio.timeout(10):
        await held_back


async def test_large_messages_fill_the_queue_by_their_bytes(bench: Bench) -> None:
    bench.stage.gate.clear()
    await bench.own(0)
    await bench.offer(0)
    await until(lambda: bench.seen() == [0])
    large = bytes(runners.HELD_BYTES // 2)
    await bench.offer(1, 2, value=large)
    held_back = asyncio.create_task(bench.offer(3))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not held_back.done()
    bench.stage.gate.set()
    await until(lambda: bench.seen() == [0, 1, 2, 3])
    assert bench.stage.emitted[:3] == [[0], [1], [2]] or bench.stage.emitted[:2] == [[0], [1, 2]]


async def test_closing_finishes_the_step_in_progress_and_saves_it(bench: Bench) -> None:
    await bench.own(0)
    bench.stage.gate.clear()
    await bench.offer(0)
    await until(lambda: bench.seen() == [0])
    await bench.offer(1, 2, 3)
    closing = asyncio.create_task(bench.partitions.close())
    for _ in range(5):
        await asyncio.sleep(0)
    bench.stage.gate.set()
    await closing
    assert bench.stage.emitted == [[0]], "what was not begun is left to the next"
    assert bench.saved() == 1


async def test_a_step_that_fails_for_a_time_is_tried_again_with_the_same_effects(bench: Bench) -> None:
    bench.stage.errors = [TemporaryError("not now"), TemporaryError("nor now")]
    await bench.own(0)
    await bench.offer(0)
    await until(lambda: bench.stage.emitted == [[0]])
    assert bench.failures == 0


@pytest.mark.parametrize(
    "errors",
    [
        pytest.param([TemporaryError("not now")] * 4, id="temporary too often"),
        pytest.param([PermanentError("never")], id="permanent"),
        pytest.param([KeyError("a bug")], id="unexpected"),
    ],
)
async def test_effects_that_cannot_be_done_end_the_process_unsaved(bench: Bench, errors: list[Exception]) -> None:
    bench.stage.errors = errors
    await bench.own(0)
    bench.clock.advance_to(16_000_000)
    await bench.offer(0)
    await until(lambda: bench.failures)
    assert bench.partitions.applied() == {("t", 0): 0}
    await bench.partitions.close()
    assert bench.saved() == 0, "the state is ahead of its effects"


async def test_a_fault_in_the_fold_ends_the_process(bench: Bench) -> None:
    await bench.own(0)
    await bench.offer(0, value=b"fault")
    await until(lambda: bench.failures == 1)
    assert bench.partitions.applied() == {("t", 0): 0}


async def test_a_disk_that_refuses_is_counted_and_the_stream_goes_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "t-0").write_text("a file where the folder should be")
    await bench.own(0)
    for turn in range(1, 3):
        bench.clock.advance_to(turn * 16_000_000)
        await bench.offer(turn - 1)
        await until(lambda turn=turn: _value(bench, "snapshot_failures_total") == turn)
    assert bench.failures == 0
    assert bench.seen() == [0, 1]


async def test_what_a_restart_does_again_is_told(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "t-0").write_text("a file where the folder should be")
    await bench.own(0)
    for offset, second in enumerate((0, 16, 40)):
        bench.clock.advance_to(1 + second * 1_000_000)
        await bench.offer(offset)
        await until(lambda offset=offset: bench.partitions.applied() == {("t", 0): offset + 1})
        await until(lambda offset=offset: (_value(bench, "snapshot_failures_total") or 0) == offset)
    bench.clock.advance_to(900_000_000)  # silence makes a restart no dearer
    assert await _measured(bench, "unsaved_seconds") == 40
    (tmp_path / "t-0").unlink()
    await bench.offer(3)
    await until(lambda: bench.saved() == 4)
    await until(lambda: _value(bench, "snapshots_total") == 1)
    assert await _measured(bench, "unsaved_seconds") == 0


async def test_a_partition_that_moved_is_told_by_its_new_owner_alone(bench: Bench) -> None:
    await bench.own(0)
    assert await _measured(bench, "lag_messages") == 5
    await bench.own()
    assert await _measured(bench, "lag_messages") == 0


async def test_a_hole_that_the_log_has_is_passed_over(bench: Bench) -> None:
    bench.log.first = {2: 5}
    await bench.own(0)
    await bench.offer(0, 1, 5, 6)
    await until(lambda: bench.seen() == [0, 1, 5, 6])


async def test_a_hole_that_the_log_does_not_have_is_a_fault(bench: Bench) -> None:
    await bench.own(0)
    await bench.offer(0, 1)
    with pytest.raises(CorruptState, match="t-0: 5 came after 1, the log goes on at 2"):
        await bench.offer(5)


async def test_a_state_ahead_of_its_log_is_refused(bench: Bench) -> None:
    bench.store.save("t", 0, Snapshot(9, meta={"seen": []}))
    bench.log.end = 8
    with pytest.raises(CorruptState, match="another log"):
        await bench.own(0)


async def test_other_topics_of_the_group_are_left_alone(bench: Bench) -> None:
    assert await bench.partitions.take_over({("t", 0), ("u", 0)}) == {("t", 0): 0}
    await bench.partitions.offer("u", 0, Message(0, b""))


async def test_a_step_that_does_not_stop_when_its_partition_moved_ends_the_process(bench: Bench) -> None:
    around = replace(surroundings(bench), cancel_seconds=0.01)
    bench.stage.gate.clear()
    bench.stage.stubborn = True
    runner = Runner(bench.stage, 0, None, around)
    await runner.offer(Message(0, b"x"))
    await until(lambda: isinstance(runner.fold, Memory) and runner.fold.seen == [0])
    await runner.close(save=False)
    assert bench.failures == 1
    bench.stage.gate.set()
    await until(lambda: bench.stage.emitted)


def _value(bench: Bench, name: str) -> float | None:
    return bench.metrics.registry.get_sample_value(f"freshrank_test_{name}", {"topic": "t"})


async def _measured(bench: Bench, name: str) -> float | None:
    """A level of the only partition after a look at a log of five messages."""
    await bench.partitions.measure(lambda topic, partition: 5, probe=False)
    return bench.metrics.registry.get_sample_value(f"freshrank_test_{name}", {"topic": "t", "partition": "0"})
