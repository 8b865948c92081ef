"""Public logs as the steps a driver takes: one loader per published format, all sorted by time.

The format is recognised by the files of the folder; nothing of a log is kept or copied.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.common.errors import InvalidInput
from services.demo.loaders import diginetica, ml_100k, online_retail, trivago
from services.demo.loaders.steps import Ask, Stock, Tell

NO_BOTS = {
    "FRESHRANK_INGEST_BOT_PER_MINUTE": "1000000",
    "FRESHRANK_INGEST_BOT_DWELL_RUN": "1000000",
}
"""For logs whose clock is too coarse to tell a program from a person: all lines of an invoice have one time."""


def judged_by(name: str, trigger: str) -> dict[str, str]:
    """The one success of a log that has no clicks: examples, gate and order go by it.

    >>> judged_by("sale", "PURCHASE")["FRESHRANK_JOINER_HEADS"]
    'sale=PURCHASE@10m'
    """
    weights = json.dumps({name: 1.0})
    return {
        "FRESHRANK_JOINER_HEADS": f"{name}={trigger}@10m",
        "FRESHRANK_TRAINER_LOSS_WEIGHTS": weights,
        "FRESHRANK_TRAINER_OBJECTIVE": weights,
    }


@dataclass(frozen=True)
class Log:
    """A published log: the file it is recognised by, its steps, and what the services must know of it."""

    file: str
    steps: Callable[[Path], Iterator[Ask | Tell | Stock]]
    settings: Mapping[str, str] = field(default_factory=dict)


LOADERS = {
    "trivago": Log("actions-2018-11-07.parquet", trivago.steps),
    "online-retail": Log("invoices.parquet", online_retail.steps, NO_BOTS | judged_by("purchase", "PURCHASE")),
    "ml-100k": Log("ml-100k.inter", ml_100k.steps, NO_BOTS | judged_by("like", "RATE:rating>=4")),
    "diginetica": Log("period_0.txt.gz", diginetica.steps),
}


def recognise(folder: Path) -> str:
    """Name of the log a folder holds. Raises InvalidInput when it is none of the known ones."""
    for name, log in LOADERS.items():
        if (folder / log.file).exists():
            return name
    known = ", ".join(f"{name} ({log.file})" for name, log in LOADERS.items())
    raise InvalidInput("data", "unknown_log", f"{folder} holds none of the known logs: {known}")


def settings(folder: Path) -> Mapping[str, str]:
    """Settings of the services that this log needs."""
    return LOADERS[recognise(folder)].settings


def steps(folder: Path, limit: int = 0) -> Iterator[Ask | Tell | Stock]:
    """The steps of the log in a folder, in time order; `limit` > 0 stops after so many events and requests."""
    taken = 0
    for step in LOADERS[recognise(folder)].steps(folder):
        yield step
        taken += len(step.events) if isinstance(step, Ask | Tell) else 0
        if limit and taken >= limit:
            return
