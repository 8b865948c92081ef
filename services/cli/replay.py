"""A public log through the gateway of a running system."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.options import KAFKA, PROBES, Json, connected
from services.common.errors import InvalidInput
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from services.cli.settings import CliSettings
    from services.demo.record import Record


@connected("gateway", *KAFKA, *PROBES)
def replay(
    settings: "CliSettings",
    data: Annotated[Path, typer.Argument(help="Folder of a public log: trivago, online-retail, ml-100k, diginetica.")],
    lockstep: Annotated[bool, typer.Option("--lockstep", help="Wait for every stage before each request.")] = False,
    speed: Annotated[float, typer.Option(min=0, help="Log seconds per second; 0 = as fast as it goes.")] = 0.0,
    limit: Annotated[int, typer.Option(min=0, help="Stop after so many events and requests; 0 = all.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Folder for what was acknowledged and answered.")] = None,
    as_json: Json = False,
) -> None:
    """Replay a real log: where it shows what was offered Rank is asked, else Recommend; the actions follow.

    The gateway's clock must be "request" and the ticks of ingest "log". Ends with 1 when a call failed.
    """
    if lockstep and speed:
        raise InvalidInput("--speed", "conflict", "lockstep has no speed of its own")
    import asyncio

    from services.cli.grpc import shop
    from services.demo import loaders

    name = loaders.recognise(data)
    with shop(settings) as api:
        api.reach()
    found = asyncio.run(_replayed(settings, data, lockstep, speed, limit))
    if record is not None:
        found.write(record)
    figures = summary(name, found)
    output.show(figures, as_json, output.facts(f"Replayed {name}", figures))
    if found.failed or not found.events:
        output.say("calls failed, or no event was acknowledged")
        raise typer.Exit(NOT_AS_WANTED)


async def _replayed(settings: "CliSettings", data: Path, lockstep: bool, speed: float, limit: int) -> "Record":
    from services.common.kafka import Outbox, Probe
    from services.common.topics import EVENTS
    from services.demo import loaders
    from services.demo.api import Api
    from services.demo.follow import Follower
    from services.demo.record import Record
    from services.demo.replay import Replay, Speed

    urls = {service: each[0] for service, each in settings.urls().items()}
    if lockstep and len(urls) < 6:
        raise InvalidInput("--lockstep", "missing_field", "needs the probe server of every service (see --folder)")
    log = Probe(settings.kafka)
    try:
        partitions = len(log.partitions(EVENTS.name))
    finally:
        log.close()
    api, outbox = Api(settings.gateway, Record()), Outbox(settings.kafka, ordered=False)
    follower = Follower(settings.kafka, partitions, urls)
    try:
        with output.progress("events", limit or None) as bar:
            run = Replay(api, follower, outbox, partitions, Speed(lockstep, speed))
            await run.run(loaders.steps(data, limit), lambda r: bar.at(r.events, f"{r.asked:,} rankings"))
            bar.at(run.events, f"{run.asked:,} rankings")
    finally:
        follower.close()
        outbox.close()
        await api.close()
    return api.record


def summary(name: str, found: "Record") -> dict[str, Any]:
    """What came of it."""
    from services.demo.record import auc_of

    latency = sorted(answer.latency_ms for answer in found.answers)
    at = {f"answer_p{q}_ms": latency[len(latency) * q // 100] if latency else None for q in (50, 99)}
    return {
        "log": name,
        "events_acknowledged": found.events,
        "rankings": len(found.answers),
        **at,
        "auc": auc_of(found.answers),
        "releases": len({answer.release for answer in found.answers if answer.release}),
        "refused": {reason: count for reason, count in found.refused.items()},
        "failed": {call: count for call, count in found.failed.items()},
    }
