"""The fold of `item_interactions`: views keyed by item or by query."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.definitions import by_query, by_user
from services.common.plans import ViewPlan
from services.common.records import BY_QUERY, ITEM_INTERACTIONS, Message
from services.features.asked import Asked, News, counting
from services.features.fold import DUE_ROWS, Outputs, ViewsFold
from services.features.rows import Rows, at_home, item_rows, packed, to_numpy, unseen
from services.features.views import ViewRows, ViewState


class ItemFold(ViewsFold):
    """Views keyed by item or by query, over the rows that the user stages of all partitions sent."""

    schema = ITEM_INTERACTIONS

    def __init__(
        self, views: Sequence[ViewPlan], due_rows: int = DUE_ROWS, partition: int = 0, partitions: int = 1
    ) -> None:
        super().__init__(views, due_rows)
        self._partition, self._partitions = partition, partitions
        self._applied: dict[int, int] = {}
        self.asked = Asked()

    @staticmethod
    def folds(view: ViewPlan) -> bool:
        """Views without user or session among their keys."""
        return not by_user(view.join_keys)

    def _empty(self, views: Sequence[ViewPlan]) -> ViewsFold:
        return ItemFold(views, partition=self._partition, partitions=self._partitions)

    def begin_log(self) -> None:
        """Another log follows, whose rows were numbered by themselves."""
        self._applied = {}

    def _mine(self, table: pa.Table) -> NDArray[np.bool_]:
        marked = _marked(table)
        homes = [at_home(table.column(name), self._partition, self._partitions) for name in ("item", "query")]
        return np.asarray(np.where(marked, homes[1], homes[0]))

    def _fresh(self, table: pa.Table) -> NDArray[np.bool_]:
        source = to_numpy(table.column("src_partition"))
        position = packed(
            to_numpy(table.column("src_offset")).astype(np.int64), to_numpy(table.column("src_index")).astype(np.int64)
        )
        fresh = np.zeros(len(source), np.bool_)
        for number in np.unique(source).tolist():
            mine = source == number
            fresh[mine] = unseen(position[mine], self._applied.get(number, -1))
            self._applied[number] = max(self._applied.get(number, -1), int(position[mine].max()))
        return fresh

    def _segments(
        self, table: pa.Table, keep: NDArray[np.bool_], fresh: NDArray[np.bool_], counts: dict[str, int]
    ) -> Iterator[tuple[Rows, bool]]:
        yield item_rows(table, keep), True

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """Also tells which queries are searched for by many."""
        out = super().apply(messages)
        return replace(out, queries=[news for rows in out.views for news in self._news(rows)])

    def _news(self, rows: ViewRows) -> News:
        counts = counting(self.views[rows.view].current)
        return self.asked.news(rows, counts.name) if counts is not None and counts.name in rows.columns else []

    def _fold_rows(self, views: Collection[ViewState], rows: Rows, publish: bool) -> list[ViewRows]:
        marked = (rows.number("src_index")[0] & BY_QUERY) > 0
        by_item = [view for view in views if not by_query(view.join_keys)]
        asked = [view for view in views if by_query(view.join_keys)]
        found = super()._fold_rows(by_item, rows.where(~marked) if marked.any() else rows, publish)
        return found + super()._fold_rows(asked, rows.where(marked), publish)

    def applied_marks(self) -> dict[str, Any]:
        """`applied`: which rows of the log are in the state."""
        applied = {str(number): position for number, position in self._applied.items()}
        return {"applied": applied, "asked": self.asked.save()}

    def _restore_applied(self, meta: Mapping[str, Any]) -> None:
        self._applied = {int(number): position for number, position in meta["applied"].items()}
        self.asked = Asked(dict(meta.get("asked", [])))


def _marked(table: pa.Table) -> NDArray[np.bool_]:
    """Rows that are counted by their query alone."""
    return np.asarray((to_numpy(table.column("src_index")) & BY_QUERY) > 0)
