"""Whether an encoder may replace the one that serves: it must not order what was searched for worse.

Two kinds of judgments, each a query with items that are worth something and others that are not: clicks in answers to
searches, and a file of judged queries that people keep. Both encoders order the same items by cosine; what counts is
the mean difference of NDCG@10 (Järvelin & Kekäläinen, 2002) over queries, with its standard error.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.publisher.checks import Check, at_least
from services.publisher.replay import Closed
from services.text.normal import normal_query

Floats = NDArray[np.float32]

TOP = 10
MOST = 300
"""Queries of each kind that are judged by: each costs some ten texts, of both encoders."""


@dataclass(frozen=True)
class Judged:
    """A query and what items are worth for it: gains [n], 0 = nothing."""

    query: str
    items: tuple[str, ...]
    gains: tuple[float, ...]


@dataclass(frozen=True)
class RelevanceBounds:
    """How much worse an encoder may be."""

    ndcg: float = 0.01
    """NDCG@10 that may be lost, less what chance explains."""
    queries: int = 30
    """Queries of a kind below which it is not judged by them."""
    errors: float = 1.0
    """Standard errors that the difference is given the benefit of."""


class Encoding:
    """One encoder's vectors of texts."""

    def __init__(self, queries: Callable[[Sequence[str]], Floats], items: Callable[[Sequence[str]], Floats]) -> None:
        self.queries, self.items = queries, items


def from_clicks(searches: Iterable[Closed]) -> list[Judged]:
    """Answers of which something, and not everything, was clicked."""
    found = []
    for closed in searches:
        items = tuple(closed.impression.items[place].item_id for place in closed.items)
        gains = tuple(float(bits != 0) for bits in closed.labels)
        if 0 < sum(gains) < len(gains):
            found.append(Judged(closed.impression.query, items, gains))
    return found


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


def figures(judged: Sequence[Judged], texts: dict[str, str], encoding: Encoding) -> NDArray[np.float64]:
    """NDCG@10 of each query by cosine; items without a text come last."""
    queries = encoding.queries([entry.query for entry in judged])
    known = sorted({item for entry in judged for item in entry.items if texts.get(item)})
    vectors = dict(zip(known, encoding.items([texts[item] for item in known]), strict=True))
    return np.array([_one(entry, query, vectors) for entry, query in zip(judged, queries, strict=True)])


def _one(entry: Judged, query: Floats, vectors: dict[str, Floats]) -> float:
    cosines = np.array([float(vectors[item] @ query) if item in vectors else -2.0 for item in entry.items])
    return ndcg(np.array(entry.gains, np.float32), np.argsort(-cosines, kind="stable"))


def figures_of_pairs(
    judged: Sequence[Judged], texts: dict[str, str], scores: Callable[[str, Sequence[str]], Floats]
) -> NDArray[np.float64]:
    """NDCG@10 of each query by scores [n] of it with texts; items without a text come last."""
    found = []
    for entry in judged:
        known = [item for item in entry.items if texts.get(item)]
        by_item = dict(zip(known, scores(entry.query, [texts[item] for item in known]).tolist(), strict=True))
        values = np.array([by_item.get(item, -np.inf) for item in entry.items])
        found.append(ndcg(np.array(entry.gains, np.float32), np.argsort(-values, kind="stable")))
    return np.array(found)


def as_shown(judged: Sequence[Judged]) -> NDArray[np.float64]:
    """NDCG@10 of each query in the order its items have. Clicks favour the order in which they were made: it is told
    beside the others, and nothing is decided by it.
    """
    return np.array([ndcg(np.array(entry.gains, np.float32), np.arange(len(entry.gains))) for entry in judged])


def judge(name: str, candidate: NDArray[np.float64], serving: NDArray[np.float64], bounds: RelevanceBounds) -> Check:
    """The candidate must not lose more than the bound. Both [queries], on the same ones."""
    count = len(candidate)
    if count < bounds.queries:
        return at_least(name, 0.0, 0.0, f"not judged: {count} queries, {bounds.queries} are needed")
    gap = candidate - serving
    error = float(gap.std(ddof=1)) / count**0.5
    detail = f"NDCG@{TOP} {candidate.mean():.4f}, serving {serving.mean():.4f}, over {count} queries"
    return at_least(name, float(gap.mean()), -bounds.ndcg - bounds.errors * error, detail)
