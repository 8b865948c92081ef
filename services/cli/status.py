"""How everything stands: services, lag per stage, what is served, how fresh it is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from services.cli import output
from services.cli.options import ADMIN, KAFKA, PROBES, Json, connected
from services.cli.output import Table
from services.common.broker import Address
from services.common.exits import NO_ANSWER, NOT_AS_WANTED

if TYPE_CHECKING:
    from services.cli.figures import Freshness
    from services.cli.probes import Process
    from services.cli.settings import CliSettings

LONGEST_S = 1800
"""Last bound of the distributions of freshness (services.common.metrics)."""

Ends = Mapping[str, Mapping[int, int]]
"""Topic -> partition -> next offset to be written."""


@connected(*ADMIN, *KAFKA, *PROBES)
def status(settings: "CliSettings", as_json: Json = False) -> None:
    """Show services, lag per stage, releases, freeze and freshness.

    Ends with 3 when a part does not answer, with 1 when a service is not ready or no release serves.
    """
    from services.cli.figures import as_data, freshness
    from services.cli.probes import ask_all

    urls = settings.urls()
    if not urls:
        from services.common.errors import InvalidInput

        raise InvalidInput("--folder", "missing_field", "say where a demo runs, or give FRESHRANK_CLI_<SERVICE>_URL")
    asked = ask_all(urls)
    ends, kafka = _ends(settings.kafka)
    served, admin = _served(settings)
    services = [service_row(name, processes, ends) for name, processes in asked.items()]
    fresh = [f for name, each in asked.items() for f in freshness(name, [p.metrics for p in each])]
    silent = [s["service"] for s in services if not s["answers"]] + [*kafka, *admin]
    found = {
        "services": services,
        "serving": served,
        "freshness": [as_data(f) for f in fresh],
        "does_not_answer": silent,
    }
    output.show(found, as_json, _services(services), output.facts("Serving", _flat(served)), _freshness(fresh))
    for part in silent:
        output.say(f"{part} does not answer")
    if silent:
        raise typer.Exit(NO_ANSWER)
    if not all(s["ready"] for s in services) or not served.get("champion"):
        output.say("a service is not ready, or no release serves yet")
        raise typer.Exit(NOT_AS_WANTED)


def service_row(service: str, processes: "Sequence[Process]", ends: Ends) -> dict[str, Any]:
    """One service over all its processes: answers and ready when each does; lag in records per topic."""
    applied: dict[str, int] = {}
    for process in processes:
        for place, offset in process.positions.get("applied", {}).items():
            applied[place] = max(offset, applied.get(place, 0))
    return {
        "service": service,
        "answers": all(process.answers for process in processes),
        "ready": all(process.ready for process in processes),
        "lag": lags(applied, ends),
        "reports": [_reported(process.positions) for process in processes if process.answers],
    }


def lags(applied: Mapping[str, int], ends: Ends) -> dict[str, int]:
    """Records not applied yet of each topic that a service reports positions of.

    A partition without a position counts whole: nothing of it was applied.

    >>> lags({"examples-0": 3}, {"examples": {0: 5, 1: 4}, "routes": {0: 9}})
    {'examples': 6}
    """
    topics = {place.rpartition("-")[0] for place in applied}
    return {
        topic: sum(max(0, end - applied.get(f"{topic}-{p}", 0)) for p, end in partitions.items())
        for topic, partitions in ends.items()
        if topic in topics
    }


def _reported(positions: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in positions.items() if name not in ("applied", "ready")}


def _ends(bootstrap: Address) -> tuple[Ends, list[str]]:
    from services.common.errors import TemporaryError
    from services.common.kafka import Probe
    from services.common.topics import TOPICS

    log = Probe(bootstrap)
    try:
        topics = [topic.name for topic in TOPICS if topic.consumers != ("people",)]
        return {t: {p: log.bounds(t, p)[1] for p in log.partitions(t)} for t in topics}, []
    except TemporaryError as error:
        return {}, [f"Kafka at {bootstrap} ({error})"]
    finally:
        log.close()


def _served(settings: "CliSettings") -> tuple[dict[str, Any], list[str]]:
    from services.cli.grpc import operator
    from services.cli.operate import frozen
    from services.common.errors import TemporaryError

    try:
        with operator(settings) as api:
            answer = api.status()
    except TemporaryError as error:
        return {}, [f"the admin API ({error})"]
    names = ("champion", "previous", "watch_share", "slot", "epoch")
    return {**{name: getattr(answer, name) for name in names}, "freeze": frozen(answer.freeze)}, []


def _flat(served: Mapping[str, Any]) -> dict[str, Any]:
    freeze = served.get("freeze", {})
    parts = [name for name in ("rows", "releases", "learning") if freeze.get(name)]
    by = (
        {"frozen": parts, "frozen by": freeze.get("actor"), "because": freeze.get("reason")}
        if parts
        else {"frozen": []}
    )
    return {**{name: value for name, value in served.items() if name != "freeze"}, **by}


def _services(services: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            s["service"],
            ("ready" if s["ready"] else "not ready") if s["answers"] else "does not answer",
            output.text([f"{topic} {lag:,}" for topic, lag in s["lag"].items()]),
        ]
        for s in services
    ]
    return Table("Services", ("service", "state", "records behind"), rows)


def _freshness(found: "Sequence[Freshness]") -> Table:
    rows = [[f.service, f.what, *(seconds(q) for q in f.quantiles), f"{f.count:,}"] for f in found if f.count]
    return Table("Freshness since each process began", ("service", "what", "p50", "p95", "p99", "of"), rows)


def seconds(value: float) -> str:
    """A quantile for people; what lies beyond the last bound of the distributions is not known more closely.

    >>> seconds(0.0123), seconds(75.0), seconds(1800.0)
    ('12 ms', '75.0 s', 'over 30 min')
    """
    if value >= LONGEST_S:
        return f"over {LONGEST_S // 60} min"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
