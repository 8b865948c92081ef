"""The rows of one slot as they lie in the store: for the gates, and to write them again after a loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

OFTEN = 255
"""As far as the trainer counts."""


@dataclass(frozen=True)
class Rows:
    """Rows of many ids: `rows` [n, dim], `seqs` [n] the delta each is from, `times_us` [n] what it has learned up to.

    A row of zeros says that the id has no row any more (evicted or forgotten).
    """

    ids: tuple[str, ...]
    rows: Floats
    seqs: NDArray[np.uint64]
    times_us: NDArray[np.int64]
    seen: NDArray[np.uint8] | None = None
    """[n] how often the trainer has seen each id, `OFTEN` at most; None = not said, which counts as often."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def present(self) -> NDArray[np.bool_]:
        """True [n] where there is a row, False where it was taken away."""
        return np.asarray(self.rows.any(axis=1), np.bool_)

    def pick(self, places: NDArray[np.int64]) -> "Rows":
        """Some of them."""
        seen = None if self.seen is None else self.seen[places]
        ids = tuple(self.ids[place] for place in places.tolist())
        return Rows(ids, self.rows[places], self.seqs[places], self.times_us[places], seen)

    @staticmethod
    def of(ids: Sequence[str], rows: Floats, seq: int, time_us: int, seen: NDArray[np.uint8] | None = None) -> "Rows":
        """Rows of one delta."""
        count = len(ids)
        return Rows(tuple(ids), rows, np.full(count, seq, np.uint64), np.full(count, time_us, np.int64), seen)


class RowTable:
    """Grows by doubling; a look-up of ids is one gather."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._place: dict[str, int] = {}
        self._rows = np.zeros((0, dim), np.float32)
        self._seqs = np.zeros(0, np.uint64)
        self._times = np.zeros(0, np.int64)
        self._seen = np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self._place)

    def apply(self, rows: Rows) -> None:
        """Set rows, the last one of an id wins."""
        if not len(rows):
            return
        places = np.array([self._place.setdefault(row_id, len(self._place)) for row_id in rows.ids], np.int64)
        self._grow(len(self._place))
        self._rows[places] = rows.rows
        self._seqs[places] = rows.seqs
        self._times[places] = rows.times_us
        self._seen[places] = OFTEN if rows.seen is None else rows.seen

    def lookup(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows [n, dim] and masks [n]: 1 where there is a row, else 0 and the row is zero.

        >>> table = RowTable(2)
        >>> table.apply(Rows.of(["a"], np.ones((1, 2), np.float32), 1, 0))
        >>> table.lookup(["a", "b"])[1].tolist()
        [1.0, 0.0]
        """
        places = self._places(ids)
        found: Floats = np.zeros((len(ids), self.dim), np.float32) if not len(self) else self._rows[places]
        found[places < 0] = 0
        return found, np.asarray(found.any(axis=1), np.float32)

    def known(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """True [n] where the id has ever had a row."""
        return self._places(ids) >= 0

    def ids(self) -> tuple[str, ...]:
        """All ids, in the order they came."""
        return tuple(self._place)

    def all(self) -> Rows:
        """Everything, for writing it again."""
        count = len(self)
        return self._at(self.ids(), np.arange(count))

    def take(self, ids: Sequence[str]) -> Rows:
        """Rows of some ids; zero, and seen 0 times, where there is none."""
        places = self._places(ids)
        count = len(self._seqs)
        if not count:
            return Rows.of(ids, np.zeros((len(ids), self.dim), np.float32), 0, 0, np.zeros(len(ids), np.uint8))
        there = self._rows[places].any(axis=1) & (places >= 0)
        found = self._at(tuple(ids), places)
        gone = np.flatnonzero(~there)
        found.rows[gone], found.seqs[gone], found.times_us[gone] = 0, 0, 0
        return replace(found, seen=np.where(there, self._seen[places], 0).astype(np.uint8))

    def copy(self) -> Self:
        """An independent table of the same rows."""
        other = type(self)(self.dim)
        other.apply(self.all())
        return other

    def _at(self, ids: tuple[str, ...], places: NDArray[np.int64]) -> Rows:
        return Rows(ids, self._rows[places], self._seqs[places], self._times[places], self._seen[places])

    def _places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self._place.get(row_id, -1) for row_id in ids], np.int64)

    def _grow(self, count: int) -> None:
        if count <= len(self._seqs):
            return
        room = max(1024, 2 * len(self._seqs), count) - len(self._seqs)
        self._rows = np.concatenate([self._rows, np.zeros((room, self.dim), np.float32)])
        self._seqs = np.concatenate([self._seqs, np.zeros(room, np.uint64)])
        self._times = np.concatenate([self._times, np.zeros(room, np.int64)])
        self._seen = np.concatenate([self._seen, np.zeros(room, np.uint8)])


class SlotTables:
    """The two tables of one slot, in the shape that `services.common.encode` reads."""

    def __init__(self, dim: int) -> None:
        self.item = RowTable(dim)
        self.user = RowTable(dim)

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        return self.item.lookup(ids)

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers."""
        return self.user.lookup(ids)

    def copy(self) -> "SlotTables":
        """An independent pair."""
        other = SlotTables(self.item.dim)
        other.item, other.user = self.item.copy(), self.user.copy()
        return other

    def as_of(self, seq: int) -> "SlotTables":
        """The same rows, all of one sequence: the start of a lane of their own."""
        other = self.copy()
        for table in (other.item, other.user):
            rows = table.all()
            table.apply(replace(rows, seqs=np.full(len(rows), seq, np.uint64)))
        return other

    @property
    def learned_up_to_us(self) -> int:
        """Event time that the newest row has learned up to; 0 without rows."""
        return max(int(table.all().times_us.max(initial=0)) for table in (self.item, self.user))
