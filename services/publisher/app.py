"""The publisher as a service: it waits to lead, publishes, and ends when another one leads."""

import asyncio
import signal
from functools import partial

from services.common import health as probes
from services.common.clock import WallClock
from services.common.kafka import Outbox
from services.common.metrics import Metrics
from services.publisher.kafka import Sender
from services.publisher.leading import leadership_of, renew
from services.publisher.lock import check
from services.publisher.loop import LoopHealth, Loops
from services.publisher.meters import Meters
from services.publisher.publisher import Publisher
from services.publisher.settings import PublisherSettings


async def serve(settings: PublisherSettings) -> None:
    """Wait to lead, publish until SIGTERM. Raises what made a loop fail for good, or TemporaryError without Kafka."""
    metrics, clock = Metrics("publisher"), WallClock()
    meters = Meters(metrics, clock.now_us)
    leadership = leadership_of(settings)
    loops = Loops(meters.fault, leadership.held)
    health = LoopHealth(loops)
    server = probes.serve(health, metrics.registry, settings.http_port, settings.http_host)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loops.stopped.set)
    outbox = Outbox(settings.kafka, ordered=False)
    publisher: Publisher | None = None
    renewing = asyncio.create_task(renew(leadership, loops, meters, min(1.0, settings.lease_s / 5)))
    try:
        # One that waits to lead is as it should be: a rolling update goes on, and the old one leaves.
        health.ready = settings.leadership == "lease"
        while not (loops.stopped.is_set() or leadership.held()):
            await asyncio.sleep(0.1)
        if not loops.stopped.is_set():
            health.ready = False
            sender = Sender(outbox, loop, partial(check, leadership))
            publisher = await asyncio.to_thread(Publisher, settings, leadership, sender, health, meters, clock)
            await asyncio.to_thread(publisher.start, loops)
        while not loops.stopped.is_set():
            await asyncio.to_thread(loops.stopped.wait, 1.0)
    finally:
        await asyncio.to_thread(loops.stop)
        if publisher is not None:
            publisher.close()
        outbox.close()
        await renewing
        leadership.release()
        server.shutdown()
    if loops.failure is not None:
        raise loops.failure
