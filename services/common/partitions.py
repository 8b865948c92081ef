"""The partitions a process owns now: opened where their snapshots stand, closed when they are another's.

Nothing here knows how ownership is agreed on; `faust.py` does.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from services.common.clock import Clock
from services.common.errors import CorruptState
from services.common.health import Health
from services.common.kafka import Probe
from services.common.metrics import Metrics
from services.common.records import Message
from services.common.runner import Runner, Surroundings
from services.common.snapshots import SnapshotStore
from services.common.stage import Fold, Stage
from services.common.tracing import Tracing

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""Topic and partition."""


class Partitions:
    """A runner for each owned partition of the stages' topics."""

    def __init__(
        self,
        stages: Iterable[Stage[Any]],
        snapshots: SnapshotStore,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        probe: Probe,
        fail: Callable[[], None],
        *,
        snapshot_seconds: float,
        attempts: int,
        tracing: Tracing,
    ) -> None:
        self._stages = {stage.topic.name: stage for stage in stages}
        self._snapshots = snapshots
        self._health = health
        self._probe = probe
        self._lag = metrics.gauge("lag_messages", "messages not applied yet", ("topic", "partition"))
        self._unsaved = metrics.gauge(
            "unsaved_seconds", "work that no snapshot holds: what a restart does again", ("topic", "partition")
        )
        self._around = Surroundings(
            snapshots,
            health,
            clock,
            int(snapshot_seconds * 1e6),
            attempts,
            metrics.counter("snapshots_total", "snapshots written", ("topic",)),
            metrics.counter("snapshot_failures_total", "snapshots the disk refused", ("topic",)),
            self._check_hole,
            fail,
            tracing=tracing,
        )
        self._runners: dict[Place, Runner] = {}
        self._ends: dict[Place, int] = {}

    async def offer(self, topic: str, partition: int, message: Message) -> None:
        """Hand a message to its runner; dropped when the partition is not owned."""
        runner = self._runners.get((topic, partition))
        if runner is not None:
            await runner.offer(message)

    async def release(self, owned: Collection[Place]) -> None:
        """Close the runners of all other partitions, without effects or snapshots after it."""
        for place in [place for place in self._runners if place not in owned]:
            runner = self._runners.pop(place)
            self._ends.pop(place, None)
            self._health.revoked(*place)
            for level in (self._lag, self._unsaved):  # the new owner tells them from now on
                level.labels(place[0], str(place[1])).set(0)
            await runner.close(save=False)
            log.info("partition given up", extra={"topic": place[0], "partition": place[1], "position": runner.applied})

    async def take_over(self, owned: Collection[Place]) -> dict[Place, int]:
        """Open the runners that are missing; returns where each owned partition goes on.

        Raises CorruptState when a state and its log do not belong together, TemporaryError when Kafka is away.
        """
        wanted = [place for place in owned if place[0] in self._stages]
        for place in wanted:
            if place not in self._runners:
                self._runners[place] = await self._open(*place)
        return {place: self._runners[place].fold.next_offset for place in wanted}

    async def close(self) -> None:
        """Finish the steps in progress and save every fold."""
        await asyncio.gather(*(runner.close(save=True) for runner in self._runners.values()))

    def folds(self, topic: str) -> dict[int, Fold[Any]]:
        """The folds of a topic, by partition."""
        return {p: runner.fold for (name, p), runner in self._runners.items() if name == topic}

    def applied(self) -> dict[Place, int]:
        """The next offset of each partition whose effects are all acknowledged."""
        return {place: runner.applied for place, runner in self._runners.items()}

    async def measure(self, known_end: Callable[[str, int], int | None], probe: bool) -> None:
        """Tell how far each partition is behind: by what the consumer knows, and with `probe` by the log itself."""
        for place in list(self._runners):
            end = known_end(*place) or 0
            if probe:
                end = max(end, (await asyncio.to_thread(self._probe.bounds, *place))[1])
            runner = self._runners.get(place)
            if runner is not None:  # it may have gone meanwhile
                self._ends[place] = max(end, self._ends.get(place, 0))
                lag = max(0, self._ends[place] - runner.applied)
                self._health.behind(*place, lag)
                self._lag.labels(place[0], str(place[1])).set(lag)
                self._unsaved.labels(place[0], str(place[1])).set(runner.unsaved_seconds)

    async def _open(self, topic: str, partition: int) -> Runner:
        snapshot = await asyncio.to_thread(self._snapshots.newest, topic, partition)
        start, end = await asyncio.to_thread(self._probe.bounds, topic, partition)
        runner = Runner(self._stages[topic], partition, snapshot, self._around)
        at = runner.applied
        extra = {"topic": topic, "partition": partition, "position": at, "start": start, "end": end}
        if at > end:
            raise CorruptState(f"{topic}-{partition} is folded up to {at} but ends at {end}: is this another log?")
        if 0 < at < start:
            log.error("the log no longer holds what the state lacks", extra=extra)
        log.info("partition taken over", extra=extra)
        self._health.applied(topic, partition, at)
        return runner

    async def _check_hole(self, topic: str, partition: int, wanted: int, found: int) -> None:
        """Offsets can be missing in a log (markers, retention); what the log holds must not be missing here."""
        first = await asyncio.to_thread(self._probe.first_at, topic, partition, wanted)
        if first != found:
            raise CorruptState(f"{topic}-{partition}: {found} came after {wanted - 1}, the log goes on at {first}")
