"""Whether a release orders what was searched for worse than the champion, by what people say items are worth.

A judgment is of a query and an item; a ranker reads much more: the shopper, features of item and query, the match. All
of that is in the log as it was served and nowhere else, so judged pairs are looked up there: in each kept answer to a
judged query, candidate and champion put the judged items in order, over the same inputs. Items that nobody judged are
left out of a list, not counted as worthless (Sakai, 2007). A query counts once, by the mean over its newest answers.

What this does not see: judged items that no answer had, so a release that would bring them up is not praised for it;
and the blend with the order of the words, which gateways make of any release's order alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.encode import RowLookup
from services.publisher.checks import Check
from services.publisher.judges import Judge, scored
from services.publisher.judgments import Floats, Judged, RelevanceBounds, judge, ndcg, too_few
from services.publisher.replay import Closed

PER_QUERY, MOST = 5, 300
"""Newest answers to a query that are looked at, and queries, those answered last: each list is encoded anew."""


@dataclass(frozen=True)
class Listed:
    """An answer to a judged query: its judged items, and what each is worth."""

    closed: Closed
    items: tuple[int, ...]
    gains: Floats


def compare(
    closed: Iterable[Closed],
    judged: Iterable[Judged],
    candidate: Judge,
    champion: Judge,
    rows: RowLookup,
    bounds: RelevanceBounds,
) -> Check:
    """The candidate must not lose more NDCG@10 than the bound; `closed`, the oldest first."""
    lists = listed(closed, judged)
    if len(lists) < bounds.queries:
        return too_few("relevance", len(lists), bounds)
    return judge("relevance", figures(lists, candidate, rows), figures(lists, champion, rows), bounds)


def listed(closed: Iterable[Closed], judged: Iterable[Judged]) -> dict[str, list[Listed]]:
    """The newest answers to each judged query in which two judged items differ; the query answered last comes last."""
    worth = {entry.query: dict(zip(entry.items, entry.gains, strict=True)) for entry in judged}
    found: dict[str, list[Listed]] = {}
    for one in closed:
        query = one.impression.query
        gains = worth.get(query, {})
        known = [(k, gains[item.item_id]) for k, item in enumerate(one.impression.items) if item.item_id in gains]
        if len({gain for _, gain in known}) > 1:
            items, values = zip(*known, strict=True)
            before = found.pop(query, [])
            found[query] = [*before[1 - PER_QUERY :], Listed(one, items, np.array(values, np.float32))]
    return dict(list(found.items())[-MOST:])


def figures(lists: dict[str, list[Listed]], by: Judge, rows: RowLookup) -> Sequence[float]:
    """NDCG@10 of each query in a release's order; what it scores alike stands in the order of ids."""
    flat = [one for every in lists.values() for one in every]
    found = [_ndcg(one, score) for one, score in zip(flat, scored(flat, by, rows)[0], strict=True)]
    cuts = np.cumsum([0, *map(len, lists.values())]).tolist()
    return [float(np.mean(found[start:end])) for start, end in zip(cuts, cuts[1:], strict=False)]


def _ndcg(one: Listed, score: NDArray[np.float64]) -> float:
    ids = [one.closed.impression.items[k].item_id for k in one.items]
    return ndcg(one.gains, np.lexsort((np.array(ids), -score)))
