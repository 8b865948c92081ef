"""Searches that a visit gave up: other words followed soon, and nothing was done with what was found. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.records import FORGET, IMPRESSION, REFORMULATION
from services.features.routing import Added
from services.features.rows import to_numpy
from services.text.normal import MOST_LETTERS

SOON_US = 300_000_000
"""Other words within five minutes are another try; later ones are another wish."""

_SEARCH = 6
_COLUMNS = ("kind", "time_us", "user", "session", "query")


@dataclass
class _Search:
    user: str
    query: str
    time_us: int
    used: bool = False


class Visits:
    """The last search of each visit, for as long as other words are another try."""

    def __init__(self, searches: Iterable[Sequence[Any]] = (), clock_us: int = 0) -> None:
        """`searches`: what `save` gave, when the log's clock was `clock_us`."""
        self._last = {str(session): _Search(*rest) for session, *rest in searches}
        self._clock_us = clock_us

    def take(self, table: pa.Table, keep: NDArray[np.bool_]) -> list[Added]:
        """Go on with rows of the log, in its order: those to keep, and those that forget. A row that searches anew
        brings the query that was given up.

        Time is the clock at each row, so what is found does not depend on how many rows come at once.
        """
        if not table.num_rows:
            return []
        clocks = np.maximum.accumulate(np.maximum(to_numpy(table.column("time_us")), self._clock_us))
        self._clock_us = int(clocks[-1])
        asked = keep & ~to_numpy(table.column("query").is_null()) & ~to_numpy(table.column("session").is_null())
        places = np.flatnonzero(asked | (to_numpy(table.column("kind")) == FORGET))
        rows = table.select(_COLUMNS).take(pa.array(places)).to_pylist() if len(places) else []
        steps = zip(places.tolist(), clocks[places].tolist(), rows, strict=True)
        queries = ((place, self._row(clock_us, **row)) for place, clock_us, row in steps)
        found = [Added(place, REFORMULATION, query) for place, query in queries if query]
        self._last = {name: last for name, last in self._last.items() if last.time_us >= self._clock_us - SOON_US}
        return found

    def _row(self, clock_us: int, kind: int, time_us: int, user: str, session: str, query: str) -> str:
        if kind == FORGET:
            kept = self._last.items()
            self._last = {name: last for name, last in kept if last.user != user or last.time_us > time_us}
            return ""
        last = self._last.get(session)
        if last is not None and last.time_us < clock_us - SOON_US:
            last = None
        if kind not in (_SEARCH, IMPRESSION):
            if last is not None and last.query == query:
                last.used = True
            return ""
        if last is not None and last.query == query:
            last.time_us = max(last.time_us, time_us)  # the search, its answer, its next page
            return ""
        self._last[session] = _Search(user or "", query, time_us)
        given_up = last is not None and not last.used and len(last.query) <= MOST_LETTERS
        return last.query if last is not None and given_up else ""

    def save(self) -> list[list[Any]]:
        """Plain data."""
        return [[name, last.user, last.query, last.time_us, last.used] for name, last in self._last.items()]

    def of(self, mine: Callable[[str], bool]) -> Iterator[list[Any]]:
        """Those of some shoppers, as `save` gives them."""
        return (row for row in self.save() if mine(row[1]))
