"""Each guard of the runtime is needed: switched off, the harm it is against is done."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.errors import TemporaryError
from services.common.kafka import Outbox, Tail
from services.common.records import Message
from services.common.runner import Runner
from services.common.stage import Snapshot
from services.demo.kafka import Kafka, TopicSpec, create_topics
from tests.common.test_runner import Bench, Memory, surroundings, until
from tests.common.workers import newer


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stage.gate.set()


def seen(runner: Runner) -> list[int]:
    assert isinstance(runner.fold, Memory)
    return runner.fold.seen


async def offer(runner: Runner, *offsets: int) -> None:
    for offset in offsets:
        await runner.offer(Message(offset, b"x"))


async def test_without_dropping_what_was_seen_a_rewound_partition_is_applied_twice(bench: Bench) -> None:
    class Trusting(Runner):
        async def offer(self, message: Message) -> None:
            self._wanted = message.offset
            await super().offer(message)

    with_guard, without = (
        Runner(bench.stage, 0, None, surroundings(bench)),
        Trusting(bench.stage, 1, None, surroundings(bench)),
    )
    for runner in (with_guard, without):
        runner.fold.apply = _blind(runner.fold)  # type: ignore[method-assign, arg-type]
        await offer(runner, 0, 1, 2, 1, 2, 3)
    await until(lambda: without.fold.next_offset == with_guard.fold.next_offset == 4)
    assert seen(with_guard) == [0, 1, 2, 3]
    assert seen(without) == [0, 1, 2, 1, 2, 3]
    await _close(with_guard, without)


async def test_without_waiting_for_effects_a_snapshot_runs_ahead_of_them_and_they_are_lost(bench: Bench) -> None:
    class Hasty(Runner):
        async def _emit(self, outputs: object) -> None:
            self._later = asyncio.create_task(super()._emit(outputs))

    bench.stage.gate.clear()
    with_guard, without = (
        Runner(bench.stage, 0, None, surroundings(bench)),
        Hasty(bench.stage, 1, None, surroundings(bench)),
    )
    bench.clock.advance_to(bench.clock.now_us() + 16_000_000)
    for runner in (with_guard, without):
        await offer(runner, 0)
    await until(lambda: bench.saved(1) == 1)
    assert seen(with_guard) == [0]
    assert bench.saved(0) == 0
    assert bench.stage.emitted == [], "killed here, what the state of partition 1 says is done never happens"
    without._later.cancel()
    await _close(with_guard, without)


async def test_without_closing_the_runner_an_old_owner_goes_on_writing(bench: Bench) -> None:
    runner = Runner(bench.stage, 0, None, surroundings(bench))
    bench.stage.gate.clear()
    await offer(runner, 0)
    await until(lambda: seen(runner) == [0])
    # The partition moves here and nobody tells the runner.
    bench.stage.gate.set()
    await until(lambda: bench.stage.emitted == [[0]])
    await _close(runner)


async def test_without_looking_into_the_log_a_lost_message_is_not_noticed(bench: Bench) -> None:
    async def alarm(topic: str, partition: int, wanted: int, found: int) -> None:
        raise ValueError(f"{wanted} to {found} is missing")

    with_guard, without = (
        Runner(bench.stage, 0, None, replace(surroundings(bench), hole=alarm)),
        Runner(bench.stage, 1, None, surroundings(bench)),
    )
    await offer(without, 0, 2)
    await until(lambda: seen(without) == [0, 2])
    with pytest.raises(ValueError, match="1 to 2 is missing"):
        await offer(with_guard, 0, 2)
    await _close(with_guard, without)


async def test_without_the_newest_valid_rule_an_old_owner_would_set_the_state_back(bench: Bench) -> None:
    bench.store.save("t", 0, Snapshot(300, meta={"seen": []}))
    late = bench.store.save("t", 0, Snapshot(150, meta={"seen": []}))
    by_time = max(late.parent.glob("*.snapshot"), key=lambda path: path.stat().st_mtime_ns)
    assert by_time == late, "the last one written is the old owner's"
    assert bench.saved() == 300


@pytest.mark.pipeline
@pytest.mark.parametrize("ordered", [pytest.param(True, id="guarded"), pytest.param(False, id="without")])
async def test_without_order_in_the_outbox_readers_drop_what_is_sent_again(
    kafka: Kafka, unique: Callable[[str], str], ordered: bool
) -> None:
    topic = unique("rows")
    create_topics(kafka.bootstrap, [TopicSpec(topic, 1)])
    # Records stay in the queue for 100 ms: it is full after five, whatever the machine does meanwhile.
    out = Outbox(kafka.bootstrap, linger_ms=100, config={"queue.buffering.max.messages": 5}, ordered=ordered)
    records = [b"%d" % n for n in range(60)]
    first = await _sent(out, topic, records[:40])
    second = await _sent(out, topic, records[40:43])  # the queue has room again
    if any(isinstance(result, TemporaryError) for result in first):
        for start in range(0, len(records), 3):  # as a stage does: all of a step again
            await _sent(out, topic, records[start : start + 3])
    else:
        second += await _sent(out, topic, records[43:])
    assert not any(isinstance(result, Exception) for result in second)
    out.close()
    tail = Tail(kafka.bootstrap, topic)
    rows = [(int(value or b""), 0) for _, _, _, _, value in tail.until(tail.ends())]
    tail.close()
    assert {n for n, _ in rows} == set(range(60)), "everything lies there, in some order"
    kept = [n for n, _ in newer(rows)]
    assert (kept == list(range(60))) is ordered


async def _sent(out: Outbox, topic: str, records: list[bytes]) -> list[object]:
    return await asyncio.gather(*(out.send(topic, r, partition=0) for r in records), return_exceptions=True)


def _blind(fold: object) -> Callable[[list[Message]], list[int]]:
    """A fold that applies whatever it is given, as a state machine without positions would."""
    assert isinstance(fold, Memory)

    def apply(messages: list[Message]) -> list[int]:
        offsets = [message.offset for message in messages]
        fold.seen += offsets
        fold.next_offset = offsets[-1] + 1
        return offsets

    return apply


async def _close(*made: Runner) -> None:
    for runner in made:
        await runner.close(save=False)
