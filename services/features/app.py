"""Features put together."""

import asyncio
import gc
import logging
import time
from collections import deque
from collections.abc import Callable

from services.common import health as probes
from services.common.clock import Clock, WallClock
from services.common.faust import Runtime
from services.common.health import Health
from services.common.kafka import Outbox
from services.common.keytable import writing
from services.common.layout import snapshots_of
from services.common.metrics import Metrics
from services.common.plans import Plan
from services.common.topics import INTERACTIONS, ITEM_INTERACTIONS
from services.common.tracing import tracing_for
from services.features.archive import FeatureArchive, LogArchive
from services.features.feast import OnlineSink, StoreGuard
from services.features.fold import ViewsFold
from services.features.kafka import ItemStage, LogReader, Pace, TimedFold, UserStage
from services.features.meters import Meters
from services.features.pickup import Pickup
from services.features.settings import FeaturesSettings
from services.online.connect import asyncio_client
from services.online.registry import PlanSource

log = logging.getLogger(__name__)

_TOPICS = (INTERACTIONS, ITEM_INTERACTIONS)
_ARCHIVE_CHUNK, _ARCHIVE_REST = 100, 3.0
"""Messages that are archived in one go, and the rest after them in times of what they took: nobody waits for it. An
archive that is two blocks behind takes no rest."""

_ARCHIVE_EVERY_S = 2.0


class Features:
    """One worker: `await run()` serves until SIGTERM."""

    def __init__(self, settings: FeaturesSettings, health: Health, metrics: Metrics, clock: Clock) -> None:
        self._settings, self._health = settings, health
        meters = Meters(metrics)
        self._tracing = tracing_for("features", settings.otlp_endpoint)
        self._outbox = Outbox(settings.kafka, headers=self._tracing.headers)
        self._redis = asyncio_client(settings.redis_url, settings.redis_tls, socket_timeout=5, socket_connect_timeout=5)
        self._log = LogReader(settings.kafka)
        self._pickup = Pickup(
            PlanSource(settings.feature_repo), self._log, settings.store / "releases", self._folds, meters
        )
        project = self._pickup.plan.project
        self._guard = StoreGuard(self._redis, project, meters)
        emitted = settings.store / "archive" / "features"
        keys = writing(settings.store, emitted, settings.seal)
        self._archive = FeatureArchive(emitted, clock, settings.archive_rows, int(settings.archive_s * 1e6), keys)
        sink = OnlineSink(self._redis, project, meters, clock)
        plan: Callable[[], Plan] = lambda: self._pickup.plan  # noqa: E731
        user_pace, item_pace = Pace(settings.step_ms / 1000), Pace(settings.item_step_ms / 1000)
        shared = (self._outbox, settings.due_rows, plan, self._pickup.keep, sink, self._archive, meters, self._log)
        self._runtime = Runtime(
            "features",
            settings.kafka,
            [
                UserStage(settings.partitions, user_pace, *shared),
                ItemStage(settings.partitions, item_pace, *shared),
            ],
            snapshots_of(settings.store, "features", settings.partitions),
            health,
            metrics,
            instance=settings.instance,
            session_seconds=settings.session_s,
            snapshot_seconds=settings.snapshot_s,
            fetch_wait_ms=settings.fetch_wait_ms,
            clock=clock,
            tracing=self._tracing,
        )
        health.extra = lambda: {"plan": self._pickup.plan.version, "refused": self._pickup.refusal}

    async def run(self) -> None:
        """Fold, write, watch the registry and the online store."""
        try:
            await self._runtime.run(self._alongside)
        finally:
            for due in self._archive.take(all_of_it=True):
                self._archive.write(*due)
            self._outbox.close()
            self._tracing.close()
            self._log.close()
            await self._redis.aclose()

    def _folds(self) -> dict[tuple[str, int], ViewsFold]:
        found = {(topic.name, p): f for topic in _TOPICS for p, f in self._runtime.folds(topic.name).items()}
        return {key: fold.fold for key, fold in found.items() if isinstance(fold, TimedFold)}

    async def _alongside(self) -> None:
        await asyncio.gather(
            self._guard.run(lambda: self._folds().values(), self._settings.check_s),
            self._pickup.run(self._settings.registry_s),
            self._archive_rows(),
            self._archive_log(),
        )

    async def _archive_rows(self) -> None:
        """Write files of rows that are due: not at once, although all partitions become due together."""
        while True:
            await asyncio.sleep(_ARCHIVE_EVERY_S)
            due = deque(self._archive.take())
            pause_s = _ARCHIVE_EVERY_S / max(1, len(due))
            try:
                while due:
                    await asyncio.to_thread(self._archive.write, *due.popleft())
                    await asyncio.sleep(pause_s)
            finally:
                for one in due:  # the service stops
                    self._archive.write(*one)

    async def _archive_log(self) -> None:
        """The same of blocks of the log; what is younger than a block is on the log itself."""
        block, folder = self._settings.archive_block, self._settings.store / "archive" / "interactions"
        archives: dict[int, LogArchive] = {}
        keys = writing(self._settings.store, folder, self._settings.seal) if block else None
        while block:
            await asyncio.sleep(_ARCHIVE_EVERY_S)
            ends = {p: fold.next_offset for (topic, p), fold in self._folds().items() if topic == INTERACTIONS.name}
            for partition in ends.keys() - archives.keys():
                archives[partition] = await asyncio.to_thread(LogArchive, folder, partition, block, keys)
            due = [partition for partition, end in ends.items() if end - archives[partition].next_offset >= block]
            for partition in due:
                await asyncio.to_thread(self._catch_up, archives[partition], partition, ends[partition])
                await asyncio.sleep(_ARCHIVE_EVERY_S / len(due))

    def _catch_up(self, archive: LogArchive, partition: int, position: int) -> None:
        """Archive whole blocks below a fold's position; the rest of what was read waits for the next block."""
        behind = position - archive.next_offset >= 2 * self._settings.archive_block
        rest = 0.0 if behind else _ARCHIVE_REST
        try:
            for messages in self._log.between(INTERACTIONS.name, partition, archive.next_offset, position):
                for k in range(0, len(messages), _ARCHIVE_CHUNK):
                    began = time.monotonic()
                    archive.put(messages[k : k + _ARCHIVE_CHUNK])
                    time.sleep(rest * (time.monotonic() - began))
        except Exception as error:
            log.warning("the log archive falls behind", extra={"partition": partition, "error": str(error)})


async def serve(settings: FeaturesSettings) -> None:
    """Serve until SIGTERM. Raises InvalidInput when the registry holds a plan that cannot be computed, Conflict
    when the state in the store is of another number of partitions."""
    metrics, health = Metrics("features"), Health()
    gc.set_threshold(50_000, 20, 50)  # steps make many short lists of values, none of them in cycles
    server = probes.serve(health, metrics.registry, settings.http_port, settings.http_host)
    try:
        await build(settings, health, metrics).run()
    finally:
        server.shutdown()


def build(settings: FeaturesSettings, health: Health, metrics: Metrics, clock: Clock | None = None) -> Features:
    """Wire the parts; reads the registry, connects to nothing else before `run`."""
    return Features(settings, health, metrics, clock or WallClock())
