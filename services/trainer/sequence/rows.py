"""Embedding rows of items by id: they grow when items appear, and only those of a step are moved.

Adam (Kingma and Ba, 2015) in its lazy form: moments of rows that a step did not touch stay as they are, so that a
step's time depends on the rows of the step and not on the catalogue.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.common.errors import CorruptState
from services.trainer.keyindex import KeyIndex
from services.trainer.sequence.sessions import Ints

BETAS = (0.9, 0.98)
EPSILON = 1e-8


class ItemRows:
    """Row `slots[i]` belongs to item `items[i]` for ever, whatever comes later."""

    def __init__(self, dim: int, spread: float) -> None:
        """`spread`: standard deviation of each value of a new row."""
        self.dim, self.spread = dim, spread
        self.items = np.zeros(0, np.int64)
        self.values = torch.zeros(0, dim)
        self._index = KeyIndex()
        self._lent: list[tuple[Tensor, Tensor]] = []
        self._first, self._second = torch.zeros(0, dim), torch.zeros(0, dim)
        self._steps = 0

    def __len__(self) -> int:
        return len(self.items)

    def find(self, items: Ints) -> Ints:
        """Slots of items; -1 = no row."""
        return self._index.find(items.astype(np.uint64))

    def add(self, items: Ints, seed: int) -> None:
        """Give rows to those that have none, in the order in which they come; the others stay as they are."""
        missing = items[self.find(items) < 0]
        unique, first = np.unique(missing, return_index=True)
        new = unique[np.argsort(first)]
        random = torch.Generator().manual_seed(seed)
        self._insert(new, torch.randn(len(new), self.dim, generator=random) * self.spread)

    def lend(self, slots: Tensor) -> Tensor:
        """Rows [n, D] of slots that differ from each other, as a leaf; `step` moves them by its gradient."""
        leaf = self.values.index_select(0, slots).requires_grad_()
        self._lent.append((slots, leaf))
        return leaf

    def step(self, rate: float, free: Tensor | None = None) -> None:
        """Move what was lent since the last step; `free` [V] says which rows may move, None: all."""
        lent = [(slots, leaf.grad) for slots, leaf in self._lent if leaf.grad is not None]
        self._lent = []
        if not lent:
            return
        slots, gradient = _summed([slots for slots, _ in lent], [g for _, g in lent if g is not None])
        if free is not None:
            slots, gradient = slots[free[slots]], gradient[free[slots]]
        self._steps += 1
        first = self._first.index_select(0, slots).lerp_(gradient, 1 - BETAS[0])
        second = self._second.index_select(0, slots).lerp_(gradient * gradient, 1 - BETAS[1])
        self._first.index_copy_(0, slots, first)
        self._second.index_copy_(0, slots, second)
        scale = rate / (1 - BETAS[0] ** self._steps)
        root = second.div_(1 - BETAS[1] ** self._steps).sqrt_().add_(EPSILON)
        self.values.index_add_(0, slots, first.div_(root), alpha=-scale)

    def begin(self) -> None:
        """Forget the optimiser's moments: an update starts without any."""
        self._lent, self._steps = [], 0
        self._first, self._second = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def state(self) -> dict[str, Tensor]:
        """Items and values; not the moments, which an update starts without."""
        return {"items": torch.from_numpy(self.items.copy()), "values": self.values.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in. Raises CorruptState when it is not of this width."""
        values = state["values"]
        if values.shape != (len(state["items"]), self.dim):
            raise CorruptState(f"values: {tuple(values.shape)} for {len(state['items'])} items of width {self.dim}")
        self.items, self.values, self._index = np.zeros(0, np.int64), torch.zeros(0, self.dim), KeyIndex()
        self._insert(state["items"].numpy(), values)
        self.begin()

    def _insert(self, items: Ints, values: Tensor) -> None:
        self._index.insert(items.astype(np.uint64), np.arange(len(self), len(self) + len(items)))
        self.items = np.concatenate([self.items, items])
        self.values = torch.cat([self.values, values])
        self._first = torch.cat([self._first, torch.zeros_like(values)])
        self._second = torch.cat([self._second, torch.zeros_like(values)])


def _summed(slots: list[Tensor], gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Slots that differ from each other and the sum of the gradients of each."""
    if len(slots) == 1:
        return slots[0], gradients[0]
    unique, at = torch.unique(torch.cat(slots), return_inverse=True)
    total = torch.zeros(len(unique), gradients[0].shape[1])
    return unique, total.index_add_(0, at, torch.cat(gradients))
