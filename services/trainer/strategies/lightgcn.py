"""The part that keeps the graph of smoothed rows: what was acted on, once it was learned."""

import numpy as np

from services.common.records import FLIP
from services.trainer.graph import GraphConfig, GraphTables
from services.trainer.groups import Tables
from services.trainer.strategies.base import Update
from services.trainer.strategies.parts import Part


class LightGCN(Part):
    """Rows are read as the mean of `layers` steps over the graph of actions (He et al., 2020; see `trainer.graph`).

    A step's actions enter the graph when the step is over: an action that had a part in the rows which its own label is
    learned on would tell it.
    """

    name = "lightgcn"

    def __init__(self, layers: float = 1, items: float = 16, shoppers: float = 64) -> None:
        super().__init__()
        self.config = GraphConfig(int(layers), int(items), int(shoppers))

    def learned(self, update: Update, tables: Tables) -> None:
        """See `Part`: who acted on what, in the order of the log."""
        assert isinstance(tables, GraphTables)
        for group in update.groups:
            if group.kind == FLIP:
                slots = np.full(group.negatives.shape, -1, np.int64)
                slots[group.layout.items_at] = group.item_slots[: len(group.layout.items)]
                shopper, place = np.nonzero(group.positives.sum(-1) > 0)
                tables.acted(group.user_slots[shopper], slots[shopper, place])
