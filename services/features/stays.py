"""How long a visit stayed with what it clicked on in a search, until it went on to something else. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.common.records import DWELL, FORGET, IMPRESSION
from services.features.routing import Added
from services.features.rows import to_numpy
from services.text.normal import MOST_LETTERS

LONG_US = 600_000_000
"""Whoever does nothing for ten minutes has left; when, nobody knows."""

_CLICK, _SEARCH = 2, 6
_COLUMNS = ("kind", "time_us", "user", "session", "query", "item", "category")


@dataclass(frozen=True)
class _Stay:
    user: str
    query: str
    item: str
    category: str
    time_us: int


class Stays:
    """The item of each visit that was clicked on last in a search, for as long as the visit may be with it."""

    def __init__(self, stays: Iterable[Sequence[Any]] = (), clock_us: int = 0) -> None:
        """`stays`: what `save` gave, when the log's clock was `clock_us`."""
        self._open = {str(session): _Stay(*rest) for session, *rest in stays}
        self._clock_us = clock_us

    def take(self, table: pa.Table, keep: NDArray[np.bool_]) -> list[Added]:
        """Go on with rows of the log, in its order: those to keep, and those that forget.

        Time is the clock at each row, so what is found does not depend on how many rows come at once.
        """
        if not table.num_rows:
            return []
        clocks = np.maximum.accumulate(np.maximum(to_numpy(table.column("time_us")), self._clock_us))
        self._clock_us = int(clocks[-1])
        places = np.flatnonzero(self._concerned(table, keep))
        rows = table.select(_COLUMNS).take(pa.array(places)).to_pylist() if len(places) else []
        steps = zip(places.tolist(), clocks[places].tolist(), rows, strict=True)
        found = [added for place, clock_us, row in steps if (added := self._row(place, clock_us, **row)) is not None]
        self._open = {name: stay for name, stay in self._open.items() if stay.time_us >= self._clock_us - LONG_US}
        return found

    def _concerned(self, table: pa.Table, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows that forget, and those of visits that are or will be with an item."""
        kind, session = to_numpy(table.column("kind")), table.column("session")
        begun = keep & (kind == _CLICK) & ~to_numpy(table.column("query").is_null())
        visits = {*self._open, *session.filter(pa.array(begun)).to_pylist()} - {None}
        mine = to_numpy(pc.is_in(session, pa.array(list(visits), pa.string()))) if visits else np.zeros(len(kind), bool)
        return np.asarray(keep & mine | (kind == FORGET))

    def _row(
        self, place: int, clock_us: int, kind: int, time_us: int, user: str, session: str, query: str, item: str,
        category: str,
    ) -> Added | None:  # fmt: skip
        if kind == FORGET:
            self._open = {s: one for s, one in self._open.items() if one.user != user or one.time_us > time_us}
            return None
        stay, found = self._open.get(session), None
        if stay is not None and stay.time_us < clock_us - LONG_US:
            del self._open[session]
            stay = None
        if stay is not None and time_us > stay.time_us and _elsewhere(stay, kind, query, item):
            del self._open[session]
            seconds = (time_us - stay.time_us) / 1e6
            found, stay = Added(place, DWELL, stay.query, stay.item, stay.category or None, seconds), None
        if stay is None and kind == _CLICK and session and query and item and len(query) <= MOST_LETTERS:
            self._open[session] = _Stay(user or "", query, item, category or "", time_us)
        return found

    def save(self) -> list[list[Any]]:
        """Plain data."""
        return [[session, *astuple(stay)] for session, stay in self._open.items()]

    def of(self, mine: Callable[[str], bool]) -> Iterator[list[Any]]:
        """Those of some shoppers, as `save` gives them."""
        return (row for row in self.save() if mine(row[1]))


def _elsewhere(stay: _Stay, kind: int, query: str, item: str) -> bool:
    """Whether a row is about something else: a search, its answer, another item; not what is shown beside the item."""
    if kind in (_SEARCH, IMPRESSION):
        return kind == _SEARCH or bool(query)
    return bool(item) and item != stay.item
