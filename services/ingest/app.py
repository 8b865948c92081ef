"""Ingest put together."""

from services.common import health as probes
from services.common.clock import Clock, WallClock
from services.common.faust import Runtime
from services.common.health import Health
from services.common.kafka import Outbox
from services.common.layout import snapshots_of
from services.common.metrics import Metrics
from services.common.tracing import Tracing, tracing_for
from services.ingest.catalogue import Catalogue
from services.ingest.faust import TickWriter
from services.ingest.kafka import CatalogueReader, IngestStage
from services.ingest.meters import Meters
from services.ingest.settings import IngestSettings


class Ingest:
    """One worker: `await run()` serves until SIGTERM."""

    def __init__(
        self, settings: IngestSettings, runtime: Runtime, outbox: Outbox, ticks: TickWriter, tracing: Tracing
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._outbox = outbox
        self._ticks = ticks
        self._tracing = tracing

    async def run(self) -> None:
        """Fold, write and tick."""
        try:
            await self._runtime.run(self._tick if self._settings.ticks == "wall" else None)
        finally:
            self._outbox.close()
            self._tracing.close()

    async def _tick(self) -> None:
        await self._ticks.run(self._settings.tick_ms / 1000)


async def serve(settings: IngestSettings) -> None:
    """Read the catalogue, then serve until SIGTERM. Raises TemporaryError when Kafka is not there, Conflict when
    the state in the store is of another number of partitions."""
    metrics, health, catalogue = Metrics("ingest"), Health(), Catalogue()
    meters = Meters(metrics)
    reader = CatalogueReader(settings.kafka, catalogue, meters)
    server = probes.serve(health, metrics.registry, settings.http_port, settings.http_host)
    try:
        reader.start()
        await build(settings, catalogue, health, metrics, meters).run()
    finally:
        reader.close()
        server.shutdown()


def build(
    settings: IngestSettings,
    catalogue: Catalogue,
    health: Health,
    metrics: Metrics,
    meters: Meters,
    clock: Clock | None = None,
) -> Ingest:
    """Wire the parts; nothing is connected before `run`."""
    clock, tracing = clock or WallClock(), tracing_for("ingest", settings.otlp_endpoint)
    outbox = Outbox(settings.kafka, headers=tracing.headers)
    log_time = settings.ticks == "log"
    stage = IngestStage(settings.partitions, settings.rules(), catalogue, log_time, outbox, meters, clock)
    runtime = Runtime(
        "ingest",
        settings.kafka,
        [stage],
        snapshots_of(settings.store, "ingest", settings.partitions),
        health,
        metrics,
        instance=settings.instance,
        session_seconds=settings.session_s,
        snapshot_seconds=settings.snapshot_s,
        fetch_wait_ms=settings.fetch_wait_ms,
        clock=clock,
        tracing=tracing,
    )
    ticks = TickWriter(runtime, outbox, meters, clock, settings.tick_slack_ms * 1_000)
    return Ingest(settings, runtime, outbox, ticks, tracing)
