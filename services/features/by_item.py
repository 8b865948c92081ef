"""The fold of `item_interactions`: views keyed by item."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.definitions import by_user
from services.common.plans import ViewPlan
from services.common.records import ITEM_INTERACTIONS
from services.features.fold import DUE_ROWS, ViewsFold
from services.features.rows import Rows, at_home, item_rows, packed, to_numpy, unseen


class ItemFold(ViewsFold):
    """Views keyed by item, over the rows that the user stages of all partitions sent."""

    schema = ITEM_INTERACTIONS

    def __init__(
        self, views: Sequence[ViewPlan], due_rows: int = DUE_ROWS, partition: int = 0, partitions: int = 1
    ) -> None:
        super().__init__(views, due_rows)
        self._partition, self._partitions = partition, partitions
        self._applied: dict[int, int] = {}

    @staticmethod
    def folds(view: ViewPlan) -> bool:
        """Views with an item and without user or session among their keys."""
        return not by_user(view.join_keys)

    def _empty(self, views: Sequence[ViewPlan]) -> ViewsFold:
        return ItemFold(views, partition=self._partition, partitions=self._partitions)

    def begin_log(self) -> None:
        """Another log follows, whose rows were numbered by themselves."""
        self._applied = {}

    def _mine(self, table: pa.Table) -> NDArray[np.bool_]:
        return at_home(table.column("item"), self._partition, self._partitions)

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

    def applied_marks(self) -> dict[str, Any]:
        """`applied`: which rows of the log are in the state."""
        return {"applied": {str(number): position for number, position in self._applied.items()}}

    def _restore_applied(self, meta: Mapping[str, Any]) -> None:
        self._applied = {int(number): position for number, position in meta["applied"].items()}
