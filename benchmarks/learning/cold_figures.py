"""What the sums of benchmarks.learning.cold come to, with intervals: days are drawn with replacement (Efron, 1979)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

DRAWS = 2_000
BASE = "own"


def summary(days: Sequence[Mapping[str, Sequence[float]]], names: Sequence[str], top: int) -> dict[str, Any]:
    """By way and figure: value and 95 % bounds, of the difference from `own` too, day by day.

    `days`: by way the sums that `names` tells, of each day.
    """
    ways = list(days[0])
    sums = {way: np.array([day[way] for day in days], np.float64) for way in ways}
    chosen = np.random.default_rng(0).integers(0, len(days), (DRAWS, len(days)))
    drawn = {way: np.array([sums[way][some].sum(axis=0) for some in chosen]) for way in ways}
    out: dict[str, Any] = {}
    for way in ways:
        values, draws = _figures(sums[way].sum(axis=0)[None], names, top), _figures(drawn[way], names, top)
        base, others = _figures(sums[BASE].sum(axis=0)[None], names, top), _figures(drawn[BASE], names, top)
        out[way] = {
            name: {
                **_told(values[name], draws[name]),
                "less_own": _told(values[name] - base[name], draws[name] - others[name]),
            }
            for name in values
        }
    return out


def _figures(sums: Doubles, names: Sequence[str], top: int) -> dict[str, Doubles]:
    """Of rows of sums [n, names], each figure [n]; NaN where nothing was counted."""
    of = dict(zip(names, sums.T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"hits": of["hits"] / (of["lists"] * top), "shelf": of["shelf_hits"] / of["shelf"]}
        for days in (1, 7):
            found[f"share_{days}"] = of[f"shown_{days}"] / (of["lists"] * top)
            found[f"hits_{days}"] = of[f"hits_{days}"] / of[f"shown_{days}"]
            found[f"place_{days}"] = of[f"place_{days}"] / of[f"bought_{days}"]
            found[f"auc_{days}"] = of[f"wins_{days}"] / of[f"pairs_{days}"]
    return found


def _told(value: Doubles, draws: Doubles) -> dict[str, float | None]:
    known = draws[np.isfinite(draws)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    three = (float(value[0]), float(low), float(high))
    numbers = [round(number, 6) if np.isfinite(number) else None for number in three]
    return dict(zip(("value", "lower", "upper"), numbers, strict=True))
