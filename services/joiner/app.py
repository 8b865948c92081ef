"""The joiner put together."""

from services.common import health as probes
from services.common.clock import Clock, WallClock
from services.common.faust import Runtime
from services.common.health import Health
from services.common.kafka import Outbox
from services.common.layout import snapshots_of
from services.common.metrics import Metrics
from services.common.tracing import Tracing, tracing_for
from services.joiner.kafka import JoinerStage
from services.joiner.meters import Meters
from services.joiner.settings import JoinerSettings


async def serve(settings: JoinerSettings) -> None:
    """Serve until SIGTERM. Raises InvalidInput for settings that cannot work, Conflict when the state in the store
    is of another number of partitions."""
    metrics, health, tracing = Metrics("joiner"), Health(), tracing_for("joiner", settings.otlp_endpoint)
    outbox = Outbox(settings.kafka, headers=tracing.headers)
    server = probes.serve(health, metrics.registry, settings.http_port, settings.http_host)
    try:
        await build(settings, outbox, health, metrics, tracing=tracing).run()
    finally:
        server.shutdown()
        outbox.close()
        tracing.close()


def build(
    settings: JoinerSettings,
    outbox: Outbox,
    health: Health,
    metrics: Metrics,
    clock: Clock | None = None,
    tracing: Tracing | None = None,
) -> Runtime:
    """Wire the parts; nothing is read before `run`."""
    clock, snapshots = clock or WallClock(), snapshots_of(settings.store, "joiner", settings.partitions)
    stage = JoinerStage(
        settings.rules(), snapshots.folder / "spill", outbox, Meters(metrics), clock, needed=snapshots.needed
    )
    return Runtime(
        "joiner",
        settings.kafka,
        [stage],
        snapshots,
        health,
        metrics,
        instance=settings.instance,
        session_seconds=settings.session_s,
        snapshot_seconds=settings.snapshot_s,
        fetch_wait_ms=settings.fetch_wait_ms,
        clock=clock,
        tracing=tracing,
    )
