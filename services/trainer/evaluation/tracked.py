"""Results of a study in an experiment tracker: one run of each way."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.trainer.tracking import Background, Tracker

_PATIENCE_S = 120.0
"""How long a tracker may take for one run."""


def keep(tracker: Tracker, results: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Exception]:
    """Write each way's figures and learning curve; returns what went wrong.

    Raises InvalidInput when the tracker is not installed.
    """
    wrong: list[Exception] = []
    for name, found in results.items():
        about = {setting: str(value) for setting, value in found["settings"].items()}
        run = Background(tracker, name, about, folder, wrong.append)
        for step, point in enumerate(zip(*found["curve"].values(), strict=True)):
            named = {f"curve/{figure}": value for figure, value in zip(found["curve"], point, strict=True)}
            run.log({figure: value for figure, value in named.items() if value is not None}, step)
        run.log(dict(_figures(found)), step=len(next(iter(found["curve"].values()), ())))
        run.close(_PATIENCE_S)
    return wrong


def _figures(found: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers at the top, and the values of those with an interval."""
    for name, value in found.items():
        number = value.get("value") if isinstance(value, Mapping) else value
        if isinstance(number, int | float) and not isinstance(number, bool):
            yield name, float(number)
