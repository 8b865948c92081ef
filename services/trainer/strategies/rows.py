"""Rows of a step: gathered once each, and their gradients until they are taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.groups import Floats, Rows, RowStep
from services.trainer.keyindex import Slots
from services.trainer.tables import RowTable


@dataclass
class TouchedRows:
    """The rows of one table that a step touches, once each."""

    slots: Slots
    values: Tensor
    """[rows, D], with a gradient."""
    places: list[NDArray[np.int64]]
    """Of each group: where its rows are among these."""

    @staticmethod
    def of(table: Rows, slots: Sequence[Slots], device: torch.device) -> "TouchedRows":
        """Gather the rows of several groups; slot -1 is a row of zeros."""
        unique, back = np.unique(np.concatenate(slots), return_inverse=True)
        values = torch.from_numpy(table.gather(unique)[0]).to(device).requires_grad_()
        return TouchedRows(unique, values, np.split(back, np.cumsum([len(s) for s in slots])[:-1]))


class RowSteps:
    """Gradients of one table's rows, summed per row when they are taken."""

    def __init__(self, table: RowTable) -> None:
        self._table = table
        self._slots: list[Slots] = []
        self._gradients: list[Floats] = []

    def add(self, rows: TouchedRows) -> None:
        """Take the gradients of a backward pass."""
        if rows.values.grad is not None:
            known = rows.slots >= 0
            self._slots.append(rows.slots[known])
            self._gradients.append(rows.values.grad.cpu().numpy()[known])

    def take(self) -> RowStep:
        """Slots and gradients, summed per row, and forget them.

        A row may have left since it was looked at: a shopper forgotten in the same step, or while gradients waited.
        """
        if len(self._slots) == 1:
            slots, gradients = self._slots[0], self._gradients[0]
        else:
            state = self.state()
            slots, back = np.unique(state["slots"], return_inverse=True)
            gradients = np.zeros((len(slots), self._table.config.dim), np.float32)
            np.add.at(gradients, back, state["gradients"])
        self.clear()
        return slots, gradients

    def clear(self) -> None:
        """Forget what was not taken."""
        self._slots, self._gradients = [], []

    def state(self) -> dict[str, NDArray[Any]]:
        """What was not taken yet."""
        dim = self._table.config.dim
        return {
            "slots": np.concatenate([*self._slots, np.zeros(0, np.int64)]),
            "gradients": np.concatenate([*self._gradients, np.zeros((0, dim), np.float32)]),
        }

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The way back."""
        self._slots, self._gradients = [state["slots"]], [state["gradients"]]


class RowsBefore:
    """Rows as they were, to go back to."""

    def __init__(self, table: RowTable, slots: Sequence[Slots]) -> None:
        """Of the slots that may change; -1 is passed over."""
        self._table = table
        unique = np.unique(np.concatenate([*slots, np.zeros(0, np.int64)]))
        self._slots = unique[unique >= 0]
        self._rows, self._squares = table.rows[self._slots].copy(), table.squares[self._slots].copy()

    def restore(self) -> None:
        """Put them back."""
        self._table.put(self._slots, self._rows, self._squares)
