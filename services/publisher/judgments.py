"""Judgments: queries with what items are worth for them, and whether one order of these items is worse than another.

What counts is the mean difference of NDCG@10 (Järvelin & Kekäläinen, 2002) over queries, with its standard error.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.publisher.checks import Check, at_least
from services.text.normal import normal_query

Floats = NDArray[np.float32]
Values = Sequence[float] | NDArray[np.float64]

TOP = 10
_SURE = 1.96
"""Standard errors on either side of a mean that hold it with 95 %."""


@dataclass(frozen=True)
class Judged:
    """A query and what items are worth for it: gains [n], 0 = nothing."""

    query: str
    items: tuple[str, ...]
    gains: tuple[float, ...]


@dataclass(frozen=True)
class RelevanceBounds:
    """How much worse an order may be."""

    ndcg: float = 0.01
    """NDCG@10 that may be lost, less what chance explains."""
    queries: int = 30
    """Queries below which nothing is judged by them."""
    errors: float = 1.0
    """Standard errors that the difference is given the benefit of."""


def file_of(store: Path) -> Path:
    """Where the shop keeps its judgments: encoders and releases are judged by the same."""
    return store / "encoders" / "judged.jsonl"


def from_file(path: Path) -> list[Judged]:
    """Lines `{"query": ..., "item": ..., "grade": ...}`; none when there is no file. Raises CorruptState."""
    grades: dict[str, dict[str, float]] = {}
    number = 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            number += 1
            entry = json.loads(line)
            query = normal_query(str(entry["query"]))
            if query:
                grades.setdefault(query, {})[str(entry["item"])] = float(entry["grade"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"{path.name}, line {number}: {error!r}") from error
    judged = [Judged(query, tuple(found), tuple(found.values())) for query, found in grades.items()]
    return [entry for entry in judged if len(set(entry.gains)) > 1]


def ndcg(gains: Floats, order: NDArray[np.int64], top: int = TOP) -> float:
    """Discounted gain of the first `top` in an order over the best there could be.

    >>> round(ndcg(np.array([0, 1], np.float32), np.array([0, 1])), 4)
    0.6309
    """
    discounts = 1 / np.log2(np.arange(2, 2 + min(top, len(gains))))
    best = float(np.sort(gains)[::-1][: len(discounts)] @ discounts)
    return float(gains[order[: len(discounts)]] @ discounts) / best if best > 0 else 0.0


def too_few(name: str, count: int, bounds: RelevanceBounds) -> Check:
    """Holds, and says that nothing was judged."""
    return at_least(name, 0.0, 0.0, f"not judged: {count} queries, {bounds.queries} are needed")


def judge(name: str, candidate: Values, serving: Values, bounds: RelevanceBounds) -> Check:
    """The candidate must not lose more than the bound. Both: NDCG of the same queries."""
    count, one, other = len(candidate), np.array(candidate, np.float64), np.array(serving, np.float64)
    if count < bounds.queries:
        return too_few(name, count, bounds)
    gap = one - other
    error = float(gap.std(ddof=1)) / count**0.5
    sure = f"difference {gap.mean() - _SURE * error:+.4f} to {gap.mean() + _SURE * error:+.4f}"
    detail = f"NDCG@{TOP} {one.mean():.4f}, serving {other.mean():.4f}, {sure}, over {count} queries"
    return at_least(name, float(gap.mean()), -bounds.ndcg - bounds.errors * error, detail)
