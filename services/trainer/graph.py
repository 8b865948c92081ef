"""Rows smoothed over the graph of who acted on what (LightGCN; He et al., 2020).

A table keeps rows e(0) and answers the mean of its layers, which is what is scored, learned on and pushed:

    e_u = 1 / (K + 1) · Σ over k of e_u(k),    e_u(k+1) = Σ over i in N(u) of e_i(k) / sqrt(|N(u)| |N(i)|)

and the same of items. Nothing of that is stored: a read walks K steps from what is asked, a push K steps from what has
moved, so neither depends on how large the rest of the graph is. The map from e(0) to e is linear and symmetric; so the
gradient of e(0) is the same walk over the gradient of e.

The graph is that of the newest actions. An edge is in both its ends' lists or in neither, so when one end has no room
its oldest edge goes from both: degrees are those of the graph there is. Where a row goes, by age or because its shopper
is forgotten, its edges go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer.groups import RowStep, Tables
from services.trainer.keyindex import Slots
from services.trainer.tables import Floats, RowConfig, RowTable


@dataclass(frozen=True)
class GraphConfig:
    """How far and how wide."""

    layers: int = 1
    """K; 0 would be plain rows."""
    items: int = 16
    """Newest items of a shopper at most."""
    shoppers: int = 64
    """Newest shoppers of an item at most."""


class GraphTable(RowTable):
    """Rows of one side; `rows` holds e(0), `read` answers e."""

    def __init__(self, config: RowConfig, layers: int, most: int) -> None:
        super().__init__(config)
        self.other: GraphTable = self
        self.near = np.zeros((config.max_rows, most), np.int32)
        """Neighbours of a slot, the oldest first, as their slots + 1; 0 = none."""
        self.degree = np.zeros(config.max_rows, np.int32)
        self.walked = 0
        """Edges gone over so far: what propagation costs."""
        self._layers = layers
        self._moved: list[Slots] = []
        """Slots whose e(0) or whose edges have changed since the last push."""

    def read(self, slots: Slots) -> Floats:
        """See `RowTable`: e [n, dim]."""
        unique, back = np.unique(slots, return_inverse=True)
        smooth: Floats = np.stack(self._up_to(unique, self._layers)).mean(axis=0)
        return smooth[back]

    def changed(self) -> tuple[list[str], Floats]:
        """See `RowTable`: also those whose neighbourhood has changed."""
        mine, theirs = self.take_moved(), self.other.take_moved()
        for table, slots in zip((self, self.other), self.reached(mine, theirs), strict=True):
            table._push_later(slots)
        return super().changed()

    def reached(self, mine: Slots, theirs: Slots) -> tuple[Slots, Slots]:
        """Slots of this side and of the other that lie K steps from some of both at most."""
        for _ in range(self._layers):
            ends = self.other.ends(theirs), self.ends(mine)
            mine, theirs = np.union1d(mine, ends[0]), np.union1d(theirs, ends[1])
        return mine, theirs

    def ends(self, slots: Slots) -> Slots:
        """Slots of the other side that are neighbours of these."""
        return np.unique(self._edges(slots)[1])

    def take_moved(self) -> Slots:
        """Different slots that have moved since the last call."""
        out = np.unique(np.concatenate([*self._moved, np.zeros(0, np.int64)]))
        self._moved.clear()
        return out

    def connect(self, slot: int, other: int) -> None:
        """An action: an edge that is the newest of both ends, in place of the oldest where there is no room."""
        self._cut(slot, other)
        for table, at in ((self, slot), (self.other, other)):
            if table.degree[at] == table.near.shape[1]:
                table._cut(at, int(table.near[at, 0]) - 1)
        for table, at, end in ((self, slot, other), (self.other, other, slot)):
            table.near[at, table.degree[at]] = end + 1
            table.degree[at] += 1
            table._edges_changed(at)

    def scatter(self, slots: Slots, gradients: Floats) -> tuple[Slots, Floats]:
        """The transposed step: gradients [n, dim] of different slots, summed over the edges at their other ends."""
        at, ends, shares = self._edges(slots)
        order = np.argsort(ends, kind="stable")
        values = gradients[at[order]] * shares[order, None]
        unique, starts = np.unique(ends[order], return_index=True)
        return unique, np.add.reduceat(values, starts) if len(starts) else values

    def pack(self, slots: Slots) -> dict[str, NDArray[Any]]:
        """See `RowTable`."""
        return {**super().pack(slots), "near": self.near[slots]}

    def unpack(self, packed: dict[str, NDArray[Any]]) -> None:
        """See `RowTable`; without neighbours the graph begins anew."""
        super().unpack(packed)
        if "near" in packed:
            near, slots = packed["near"], packed["slots"]
            self.near[slots], self.degree[slots] = near, (near > 0).sum(1)

    def _up_to(self, slots: Slots, layers: int) -> list[Floats]:
        """e(0) .. e(layers) of different slots, each [n, dim]."""
        own = self.rows[slots]
        if not layers:
            return [own]
        at, ends, shares = self._edges(slots)
        unique, back = np.unique(ends, return_inverse=True)
        out = [own]
        places, starts = np.unique(at, return_index=True)
        for layer in self.other._up_to(unique, layers - 1):
            total = np.zeros_like(own)
            if len(starts):
                total[places] = np.add.reduceat(layer[back] * shares[:, None], starts)
            out.append(total)
        return out

    def _edges(self, slots: Slots) -> tuple[Slots, Slots, Floats]:
        """Edges of slots: which of them [m], in order; the slot at the other end [m]; 1 / sqrt(degree · degree) [m]."""
        near = self.near[slots]
        at, place = np.nonzero(near)
        ends = near[at, place].astype(np.int64) - 1
        self.walked += len(at)
        product = self.degree[slots[at]].astype(np.float32) * self.other.degree[ends]
        return at, ends, 1 / np.sqrt(product)

    def _cut(self, slot: int, other: int) -> None:
        """Take an edge away from both its ends; none is nothing."""
        if (other + 1) not in self.near[slot, : self.degree[slot]]:
            return
        for table, at, end in ((self, slot, other), (self.other, other, slot)):
            kept = table.near[at][table.near[at] != end + 1]
            table.near[at, : len(kept)], table.near[at, len(kept) :] = kept, 0
            table.degree[at] -= 1
            table._edges_changed(at)

    def _edges_changed(self, slot: int) -> None:
        slots = np.array([slot])
        self._moved.append(slots)
        self._save_later(slots)

    def _touch(self, slots: Slots) -> None:
        super()._touch(slots)
        self._moved.append(slots)

    def _evict(self, slots: Slots) -> int:
        for slot in slots[self.degree[slots] > 0].tolist():
            for end in self.near[slot, : self.degree[slot]].tolist():
                self._cut(slot, end - 1)
        return super()._evict(slots)


class GraphTables(Tables):
    """Two tables over one graph."""

    item: GraphTable
    user: GraphTable

    def __init__(self, rows: RowConfig, config: GraphConfig) -> None:
        item = GraphTable(rows, config.layers, config.shoppers)
        user = GraphTable(rows, config.layers, config.items)
        item.other, user.other = user, item
        super().__init__(item, user)
        self.config = config

    def acted(self, users: Slots, items: Slots) -> None:
        """Actions [n] in order; where one end has no row there is no edge."""
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            if min(user, item) >= 0 and self.user.live[user] and self.item.live[item]:
                self.user.connect(user, item)

    def learn(self, item: RowStep, user: RowStep, rate: float) -> None:
        """See `Tables`: gradients of what was read go to e(0) of all that had a part in it."""
        items, users = [item], [user]
        for _ in range(self.config.layers):
            before = items[-1], users[-1]
            items.append(self.user.scatter(*before[1]))
            users.append(self.item.scatter(*before[0]))
        super().learn(self._mean(items), self._mean(users), rate)

    def reached(self, items: Slots, users: Slots) -> tuple[Slots, Slots]:
        """See `Tables`."""
        return self.item.reached(items, users)

    def _mean(self, layers: Sequence[RowStep]) -> RowStep:
        unique, back = np.unique(np.concatenate([slots for slots, _ in layers]), return_inverse=True)
        out = np.zeros((len(unique), self.item.config.dim), np.float32)
        np.add.at(out, back, np.concatenate([gradients for _, gradients in layers]))
        return unique, out / np.float32(len(layers))
