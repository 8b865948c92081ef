"""Whether an encoder may replace the one that serves: it must not order what was searched for worse.

Two kinds of judgments, each a query with items that are worth something and others that are not: clicks in answers to
searches, and a file of judged queries that people keep. Both encoders order the same items by cosine (`judgments.py`).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.publisher.judgments import Floats, Judged, ndcg
from services.publisher.replay import Closed

MOST = 300
"""Queries of each kind that are judged by: each costs some ten texts, of both encoders."""


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
