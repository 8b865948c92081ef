"""Which queries many shoppers search for: what gateways may suggest to others. Pure.

A query may say who it is of. So it leaves the features of its own key only when several shoppers have searched for it
within the window of the feature that counts them, and is taken back when that is over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from services.common.definitions import FeatureDefinition
from services.features.views import ViewRows

SHOPPERS = 3
"""So many different shoppers must have searched for a query before others are shown it."""

News = list[tuple[str, int, int]]
"""Query, shoppers (0 = too few), and time of its newest event in microseconds."""


def counting(features: Iterable[FeatureDefinition]) -> FeatureDefinition | None:
    """The feature that counts the shoppers of a query, by definition: distinct users over the longest window."""
    counts = [f for f in features if (f.join_keys, f.function, f.column) == (("query",), "count_distinct", "user")]
    return max(counts, key=lambda feature: feature.window_us, default=None)


class Asked:
    """What gateways know: how many shoppers each query has, of those that have enough."""

    def __init__(self, told: Mapping[str, int] | None = None) -> None:
        self.told = dict(told or {})

    def news(self, rows: ViewRows, name: str) -> News:
        """What has changed by new values of a view; `name`: its column with the number of shoppers."""
        counts, out = rows.columns[name], []
        nulls = np.zeros(len(rows.keys), np.bool_) if counts.nulls is None else counts.nulls
        values = zip(rows.keys, list(counts.values), nulls.tolist(), rows.event_us.tolist(), strict=True)
        for (query,), value, null, event_us in values:
            shoppers = 0 if null or value is None or value < SHOPPERS else int(value)
            if shoppers != self.told.get(query, 0):
                out.append((query, shoppers, event_us))
                self._note(query, shoppers)
        return out

    def _note(self, query: str, shoppers: int) -> None:
        if shoppers:
            self.told[query] = shoppers
        else:
            self.told.pop(query, None)

    def save(self) -> list[Any]:
        """Plain data."""
        return sorted(self.told.items())


def joined(parts: Sequence["Asked"], mine: Callable[[str], bool]) -> Asked:
    """What several know of the queries that are mine."""
    return Asked({query: count for part in parts for query, count in part.told.items() if mine(query)})
