"""Public logs as the steps a driver takes: one loader per published format, all sorted by time.

The format is recognised by the files of the folder; nothing of a log is kept or copied.
"""

from collections.abc import Iterator
from pathlib import Path

from services.common.errors import InvalidInput
from services.demo.loaders import diginetica, ml_100k, online_retail, trivago
from services.demo.loaders.steps import Ask, Stock, Tell

LOADERS = {
    "trivago": ("actions-2018-11-07.parquet", trivago.steps),
    "online-retail": ("invoices.parquet", online_retail.steps),
    "ml-100k": ("ml-100k.inter", ml_100k.steps),
    "diginetica": ("period_0.txt.gz", diginetica.steps),
}


def recognise(folder: Path) -> str:
    """Name of the log a folder holds. Raises InvalidInput when it is none of the known ones."""
    for name, (file, _) in LOADERS.items():
        if (folder / file).exists():
            return name
    known = ", ".join(f"{name} ({file})" for name, (file, _) in LOADERS.items())
    raise InvalidInput("data", "unknown_log", f"{folder} holds none of the known logs: {known}")


def steps(folder: Path, limit: int = 0) -> Iterator[Ask | Tell | Stock]:
    """The steps of the log in a folder, in time order; `limit` > 0 stops after so many events and requests."""
    taken = 0
    for step in LOADERS[recognise(folder)][1](folder):
        yield step
        taken += len(step.events) if isinstance(step, Ask | Tell) else 0
        if limit and taken >= limit:
            return
