"""The fold of `interactions`: views keyed by user or session, and the rows that items are counted by."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.definitions import by_user
from services.common.plans import ViewPlan
from services.common.records import FORGET, INTERACTIONS
from services.features.aggregates import Ints
from services.features.fold import DUE_ROWS, ViewsFold
from services.features.routing import item_messages
from services.features.rows import Rows, at_home, packed, to_numpy, unseen, user_rows
from services.features.searches import Visits
from services.features.stays import Stays


class UserFold(ViewsFold):
    """Views keyed by user or session, and the rows that items are counted by."""

    schema = INTERACTIONS

    def __init__(
        self, views: Sequence[ViewPlan], partition: int, partitions: int, due_rows: int = DUE_ROWS, derive: bool = True
    ) -> None:
        super().__init__(views, due_rows)
        self._partition, self._partitions, self._derive = partition, partitions, derive
        self._applied = -1
        self.visits, self.stays = Visits(), Stays()

    @staticmethod
    def folds(view: ViewPlan) -> bool:
        """Views with user or session among their keys."""
        return by_user(view.join_keys)

    def _empty(self, views: Sequence[ViewPlan]) -> ViewsFold:
        return UserFold(views, self._partition, self._partitions, derive=False)

    def _fresh(self, table: pa.Table) -> NDArray[np.bool_]:
        offset = to_numpy(table.column("src_offset")).astype(np.int64)
        index = to_numpy(table.column("src_index").fill_null(0)).astype(np.int64)
        position = packed(offset, index)
        fresh = unseen(position, self._applied)
        if len(position):
            self._applied = max(self._applied, int(position.max()))
        return fresh

    def begin_log(self) -> None:
        """Another log follows, whose rows were numbered by themselves."""
        self._applied = -1

    def _mine(self, table: pa.Table) -> NDArray[np.bool_]:
        return at_home(table.column("user"), self._partition, self._partitions)

    def _segments(
        self, table: pa.Table, keep: NDArray[np.bool_], fresh: NDArray[np.bool_], counts: dict[str, int]
    ) -> Iterator[tuple[Rows, bool]]:
        forgets = np.flatnonzero((to_numpy(table.column("kind")) == FORGET) & fresh).tolist()
        counts["forgotten"] = len(forgets)
        start = 0
        for at in forgets:
            yield user_rows(table, _between(keep, start, at)), False
            self._forget(str(table.column("user")[at]), int(table.column("time_us")[at].as_py()))
            start = at
        yield user_rows(table, _between(keep, start, len(keep))), True

    def _forget(self, user: str, before_us: int) -> None:
        for view in self.views.values():
            view.forget(user, before_us)
        if self.unfilled() or self.strict:  # one log after the other is not in the order of time
            self.forgotten.append((user, before_us))

    def _derived(
        self, table: pa.Table, last: Rows, keep: NDArray[np.bool_], origin: tuple[Ints, Ints]
    ) -> dict[int, list[bytes]]:
        if not self._derive:
            return {}
        whole = bool(np.isin(np.flatnonzero(keep), last.source).all())
        rows = last if whole else user_rows(table, keep)
        added = [*self.visits.take(table, keep), *self.stays.take(table, keep)]
        return item_messages(table, rows, origin, self._partition, self._partitions, added)

    def _wishes(self, table: pa.Table, offset: Ints) -> list[tuple[str, int, int]]:
        at = np.flatnonzero(to_numpy(table.column("kind")) == FORGET)
        users, times = (table.column(name).take(at).to_pylist() for name in ("user", "time_us"))
        return list(zip(map(str, users), offset[at].tolist(), times, strict=True))

    def applied_marks(self) -> dict[str, Any]:
        """`applied`: which rows of the log are in the state."""
        return {"applied": self._applied, "visits": self.visits.save(), "stays": self.stays.save()}

    def _restore_applied(self, meta: Mapping[str, Any]) -> None:
        self._applied = meta["applied"]
        self.visits = Visits(meta.get("visits", []), self.clock_us)
        self.stays = Stays(meta.get("stays", []), self.clock_us)


def _between(keep: NDArray[np.bool_], start: int, end: int) -> NDArray[np.bool_]:
    part = np.zeros(len(keep), np.bool_)
    part[start:end] = keep[start:end]
    return part
