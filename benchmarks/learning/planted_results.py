"""Results of `benchmarks.learning.planted`: kept in one file, and told to people."""

import json
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch


class Results:
    """Results by key in one file, written after each."""

    def __init__(self, path: Path, size: dict[str, int]) -> None:
        """Raises ValueError when the file holds results of another size."""
        self._path, self._head = path, {"size": size, "torch": str(torch.__version__)}
        self.found: dict[str, dict[str, Any]] = {}
        if path.exists():
            body = json.loads(path.read_text())
            if body["size"] != size:
                raise ValueError(f"{path} holds results of another size: {body['size']}")
            self.found = body["results"]

    def add(self, key: str, value: dict[str, Any]) -> None:
        """Take one, and write all."""
        self.found[key] = value
        body = {**self._head, "machine": platform.machine(), "results": self.found}
        staging = self._path.with_suffix(".part")
        staging.write_text(json.dumps(body, indent=1))
        staging.replace(self._path)

    def across(self, prefix: str) -> list[dict[str, Any]]:
        """Those of all seeds."""
        return [value for key, value in self.found.items() if key.rpartition("/")[0] == prefix]


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean, least and most of the seeds; `never` stands for None and is counted.

    >>> spread([1.0, 2.0]), spread([1.0, None]), spread([None])
    ('1.500 [1.000, 2.000]', '1.000 [1.000, 1.000], 1 never', 'never')
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "never"
    said = f"{statistics.mean(numbers):.{digits}f} [{min(numbers):.{digits}f}, {max(numbers):.{digits}f}]"
    missing = len(values) - len(numbers)
    return f"{said}, {missing} never" if missing else said


def through(name: str, found: Sequence[dict[str, Any]]) -> str:
    """One way through a change, for people."""
    of = {key: spread([each[key] for each in found]) for key in ("before", "jump", "final")}
    return (
        f"  {name:36} regret before {of['before']}, first {of['jump']}, last {of['final']};"
        f" lost {spread([each['lost'] for each in found], 0)}, back after s"
        f" {spread([each['seconds'] for each in found], 0)}"
    )


def report(results: Results) -> Iterator[str]:
    """All there is, for people: mean [least, most] of the seeds."""
    prefixes = list(dict.fromkeys(key.rpartition("/")[0] for key in results.found))
    for prefix in prefixes:
        study, shop, way = prefix.split("/")
        found = results.across(prefix)
        if study == "drift":
            yield through(f"{shop}, {way}", found)
        elif study == "triggers":
            yield from _report_of_triggers(shop, found)
        elif study == "delay":
            yield f"  {shop}, {way:16} " + ", ".join(_delay_figures(found))
        else:
            yield f"  {shop:24} " + "; ".join(f"{t}: {spread([f[t] for f in found], 1)}" for t in found[0])


def _report_of_triggers(shop: str, found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield through(f"{shop}, without lag", [each["learner"] for each in found])
    for name in found[0]["served"]:
        served = [each["served"][name] for each in found]
        yield through(f"{shop}, {name}", served)
        told = {
            key: spread([each[key] for each in served], 0) for key in ("told_before", "told_behind", "told_after_s")
        }
        releases = spread([each["releases"] for each in served], 0)
        yield f"      releases {releases}; told before {told['told_before']}, behind {told['told_behind']}," + (
            f" first after s {told['told_after_s']}"
        )

    for signal in found[0]["alarms"]:
        told = [each["alarms"][signal] for each in found]
        counts = {key: spread([each[key] for each in told], 1) for key in ("before", "behind", "after_s")}
        yield f"  {shop}, {signal:36} alarms before {counts['before']}, behind {counts['behind']}," + (
            f" first after s {counts['after_s']}"
        )


def _delay_figures(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for key in ("excess_log_loss", "regret"):
        yield f"{key} {spread([each[key]['value'] for each in found], 4)}"
    for key in ("calibration", "calibration_error"):
        yield f"{key} {spread([each[key] for each in found])}"
