"""A new arm that begins with what another one has learned: weights by name, rows by key.

From a shop with the same features and more traffic, or from an arm of another model: what fits is taken over, the rest
begins anew. With `thaw(...)` in the strategy the lower layers stay as they came for a while.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from services.trainer.checkpoint import Saved
from services.trainer.learner import Arrays, Learner
from services.trainer.tables import RowTable


@dataclass(frozen=True)
class Taken:
    """What was taken over."""

    weights: int
    """Dense tensors of the ranker whose name and shape are the same in both; those of features if all features are."""
    of_weights: int
    items: int
    users: int


def take_over(learner: Learner, source: Saved, users: bool = True) -> Taken:
    """Give a learner that has seen nothing the weights and rows of a checkpoint; `users` False leaves shoppers out."""
    strategy = learner.strategy
    # Without the optimiser's memory and what parts remember: both are of weights that are about to go.
    state = {n: v for n, v in strategy.state().items() if n.partition(":")[0] in ("ranker", "towers", "pool", "counts")}
    same_features = source.meta["blocks"] == learner.blocks
    fitting = {
        name: torch.from_numpy(value.copy())
        for name, value in source.files["dense"].items()
        if name.startswith(("ranker:", "towers:"))
        and name in state
        and tuple(state[name].shape) == value.shape
        and (same_features or "_numeric." not in name)
    }
    strategy.load({**state, **fitting})
    tables = learner.tables
    items = _rows(tables.item, [_part(packed, "item") for packed in source.rows])
    shoppers = _rows(tables.user, [_part(packed, "user") for packed in source.rows]) if users else 0
    of_weights = sum(name.startswith("ranker:") for name in state)
    return Taken(sum(name.startswith("ranker:") for name in fitting), of_weights, items, shoppers)


def _part(packed: Arrays, kind: str) -> Arrays:
    return {name.removeprefix(f"{kind}."): value for name, value in packed.items() if name.startswith(f"{kind}.")}


def _rows(table: RowTable, chain: Sequence[Arrays]) -> int:
    """Live rows of a chain, the newest word on each slot; admitted here under their own ids."""
    newest: dict[int, tuple[Arrays, int, str]] = {}
    for packed in chain:
        ends = np.cumsum(packed["id_lengths"])
        data = packed["ids"].tobytes()
        for k, slot in enumerate(packed["slots"].tolist()):
            name = data[int(ends[k]) - int(packed["id_lengths"][k]) : int(ends[k])].decode()
            newest[slot] = (packed, k, name)
    live = [(packed, k, name) for packed, k, name in newest.values() if packed["live"][k]]
    if not live or live[0][0]["rows"].shape[1] != table.config.dim:
        return 0
    slots = table.admit([name for _, _, name in live], max(int(packed["seen_us"][k]) for packed, k, _ in live))
    kept = slots >= 0
    rows = np.stack([packed["rows"][k] for packed, k, _ in live])[kept]
    squares = np.array([packed["squares"][k] for packed, k, _ in live], np.float32)[kept]
    table.put(slots[kept], rows, squares)
    return int(kept.sum())
