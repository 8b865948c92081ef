"""Fine-tuning at each release: what came since the last one, several times over, with early stopping."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from services.trainer import remembered
from services.trainer.examples import Example
from services.trainer.groups import Group
from services.trainer.strategies.base import Update
from services.trainer.strategies.parts import Moment, Part
from services.trainer.strategies.rows import RowsBefore

_BATCH = 32
"""Impressions of a step."""
_CHECKS = 4
"""Looks at the held-out loss in an epoch."""


class Epochs(Part):
    """Goes over the finished impressions since the last release so many times, in an order of chance.

    The usual periodic update. With a hold-out, its loss is looked at four times an epoch; after `patience` looks
    without a better one it stops, and weights and rows of the best look are put back (Prechelt, 1998). Beside online
    learning (labels = flips) it is a second look at what was learned once; with labels = at_release it is all.
    """

    name = "epochs"

    def __init__(self, epochs: float = 3, patience: float = 4, kept: float = 20_000) -> None:
        super().__init__()
        self._epochs, self._patience = int(epochs), int(patience)
        self._since: deque[Example] = deque(maxlen=int(kept))
        self.counters = {"steps": 0.0, "stopped": 0.0}

    def more(self, update: Update) -> Sequence[Group]:
        """See `Part`: nothing now."""
        self._since.extend(update.finished)
        return ()

    def released(self, moment: Moment) -> None:
        """See `Part`; what is left for another release waits."""
        if not moment.deep:
            return
        examples = list(self._since)
        self._since.clear()
        if not examples:
            return
        best = _Best(moment)
        chance = np.random.Generator(np.random.Philox(key=[0xE90C, moment.number]))
        steps = -(-len(examples) // _BATCH)
        for number, places in enumerate(self._batches(len(examples), chance), 1):
            group = moment.encode([examples[k] for k in places])
            best.may_change(group)
            moment.step([group])
            self.counters["steps"] += 1
            if number % max(1, steps // _CHECKS) == 0 and best.looked() >= self._patience:
                self.counters["stopped"] += 1
                break
        best.restore()

    def forget(self, user: str, before_us: int) -> None:
        """See `Part`."""
        kept = [e for e in self._since if e.user != user or e.event_time_us >= before_us]
        self._since = deque(kept, maxlen=self._since.maxlen)

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        return remembered.pack(list(self._since))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Part`."""
        self._since = deque(remembered.unpack(state), maxlen=self._since.maxlen)

    def _batches(self, count: int, chance: np.random.Generator) -> list[list[int]]:
        orders = [chance.permutation(count).tolist() for _ in range(self._epochs)]
        return [order[k : k + _BATCH] for order in orders for k in range(0, count, _BATCH)]


class _Best:
    """The state of the lowest held-out loss; without a hold-out, the last."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._since = 0
        self._loss = self._now()
        self._keep()

    def may_change(self, group: Group) -> None:
        """Rows of a group are about to be learned: what they are now belongs to the best state."""
        tables, (items, users) = self._moment.tables, (group.item_slots, group.user_slots)
        items, users = tables.reached(items[items >= 0], users[users >= 0])
        for kept, table, slots in ((self._rows[0], tables.item, items), (self._rows[1], tables.user, users)):
            kept.append(RowsBefore(table, [slots]))

    def looked(self) -> int:
        """Compare; returns how many looks ago the best was."""
        if not self._moment.held:
            return 0
        loss = self._now()
        self._since += 1
        if loss < self._loss:
            self._loss, self._since = loss, 0
            self._keep()
        return self._since

    def restore(self) -> None:
        """Go back to the best."""
        if not self._moment.held or not self._since:
            return
        for vector, kept in zip((self._moment.dense.flat, self._moment.dense.average), self._dense, strict=True):
            vector.copy_(kept)
        self._moment.dense.rebase()
        for changes in self._rows:
            for change in reversed(changes):  # the oldest last: it is what the best state had
                change.restore()

    def _now(self) -> float:
        held = [self._moment.encode(group.examples) for group in self._moment.held]
        return self._moment.loss_of(self._moment.dense.flat, held)

    def _keep(self) -> None:
        dense = self._moment.dense
        self._dense = (dense.flat.clone(), dense.average.clone())
        self._rows: tuple[list[RowsBefore], list[RowsBefore]] = ([], [])
