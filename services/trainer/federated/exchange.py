"""A learner's side of a federation: which of its arrays leave, and how those that come are taken in.

Dense weights and their running averages go, rows of items go. What stays: rows of shoppers, the optimiser's memory, the
pool of retrieval, what parts remember, and the statistics of numeric features - every shop normalises by its own
(FedBN; Li et al., 2021), for prices of two shops may be in different money.
"""

import numpy as np
import torch
from torch import Tensor, nn

from services.common.ids import keys_of
from services.trainer.federated.model import Rows, Weights
from services.trainer.groups import Tables
from services.trainer.keyindex import Slots
from services.trainer.strategies.online import OnlineStrategy
from services.trainer.strategies.parts import Part, Seen
from services.trainer.tables import RowTable


class Touched(Part):
    """Counts the examples that touch each row of items, since it was last asked."""

    name = "touched"

    def __init__(self, table: RowTable) -> None:
        super().__init__()
        self._table, self._slots = table, list[Slots]()

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        self._slots.append(seen.group.item_slots)
        return None

    def take(self) -> tuple[Slots, Slots]:
        """Slots [n] that have rows, and how often each was touched [n]."""
        slots = np.concatenate([*self._slots, np.zeros(0, np.int64)])
        self._slots = []
        unique, counts = np.unique(slots[slots >= 0], return_counts=True)
        live = self._table.live[unique]
        return unique[live], counts[live]


def names_of(strategy: OnlineStrategy) -> list[str]:
    """Names, in `strategy.state()`, of what leaves a shop beside rows; sorted."""
    modules: dict[str, nn.Module] = {"ranker": strategy.ranker, "towers": strategy.towers}
    found = [(kind, name) for kind, module in modules.items() for name, _ in module.named_parameters()]
    return sorted(name for kind, n in found for name in (f"{kind}:{n}", f"{kind}_memory:average.{n}"))


def weights_of(strategy: OnlineStrategy) -> Weights:
    """Copies of what leaves a shop beside rows."""
    state = strategy.state()
    return {name: np.ascontiguousarray(state[name].numpy()).copy() for name in names_of(strategy)}


def put_weights(strategy: OnlineStrategy, weights: Weights) -> None:
    """Take weights in; those that are the same already leave every bit as it is."""
    state = strategy.state()
    new = {name: torch.from_numpy(weights[name].copy()) for name in names_of(strategy)}
    if all(torch.equal(state[name], value) for name, value in new.items()):
        return
    # FTRL's sums are of weights that are gone: without them they begin so that they give the new ones.
    strategy.load({n: v for n, v in state.items() if ":ftrl_sums." not in n} | new)


def rows_of(table: RowTable, slots: Slots, touched: Slots | None = None) -> Rows:
    """Copies of the rows of slots."""
    counts = np.zeros(len(slots), np.int64) if touched is None else touched
    return Rows(table.ids.get(slots), table.rows[slots], table.squares[slots], table.seen_us[slots], counts)


def put_rows(tables: Tables, found: Rows, oldest_us: int) -> int:
    """Take rows of items in; those not seen since `oldest_us`, which are not here, stay away. Returns how many."""
    table = tables.item
    new = np.flatnonzero((table.find(keys_of(found.ids)) < 0) & (found.seen_us >= oldest_us))
    table.admit([found.ids[int(k)] for k in new], 0)
    slots = table.find(keys_of(found.ids))
    here = slots >= 0
    slots, rows, squares = slots[here], found.rows[here], found.squares[here]
    table.seen_us[slots] = np.maximum(table.seen_us[slots], found.seen_us[here])
    other = (table.rows[slots] != rows).any(axis=1) | (table.squares[slots] != squares)
    table.put(slots[other], rows[other], squares[other])
    return len(slots)
