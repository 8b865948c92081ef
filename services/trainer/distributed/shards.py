"""The rows of both tables, each on the process that owns its key: a parameter server inside every process.

A step's rows come from their owners in one exchange and their gradients go back in another; the owner adds up what all
processes send and moves the row by the step that one process would have made (Li et al., 2014). Everybody counts all
sightings, so that every sketch is that of one process; rows are given only by the owner.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.trainer.distributed.peers import Arriving, Peers
from services.trainer.distributed.split import Part, Plan, now_of, owners_of
from services.trainer.groups import Floats, Tables
from services.trainer.keyindex import ABSENT, Keys, Slots
from services.trainer.strategies.rows import TouchedRows
from services.trainer.tables import RowTable

_NO_ROW = -1.0


class Fetched:
    """Rows of one table that this process needs in a step; slots count these alone."""

    def __init__(self, keys: Keys, dim: int, processes: int) -> None:
        self.keys, self.owners = keys, owners_of(keys, processes)
        self.rows = np.zeros((len(keys), dim), np.float32)
        self.stamps = np.full(len(keys), _NO_ROW, np.float32)
        """Steps of the batch that a row had taken when it left its owner; -1 = there is no row."""

    def find(self, keys: Keys) -> Slots:
        """Slots [n] of keys that were asked for; -1 = no row."""
        at = np.searchsorted(self.keys, keys)
        return np.where(self.stamps[at] != _NO_ROW, at, ABSENT) if len(at) else np.zeros(0, np.int64)

    def gather(self, slots: Slots) -> tuple[Floats, Floats]:
        """See `groups.Rows`."""
        present = slots >= 0
        out = np.zeros((len(slots), self.rows.shape[1]), np.float32)
        out[present] = self.rows[slots[present]]
        return out, present.astype(np.float32)

    def put(self, owner: int, block: Floats) -> None:
        """What an owner sent."""
        mine = self.owners == owner
        self.rows[mine], self.stamps[mine] = block[:, :-1], block[:, -1]

    def gradients(self, touched: TouchedRows) -> Floats:
        """Gradients [keys, dim] after a backward pass; zero where there is no row."""
        out = np.zeros_like(self.rows)
        if touched.values.grad is not None:
            known = touched.slots >= 0
            out[touched.slots[known]] = touched.values.grad.cpu().numpy()[known]
        return out


class Asked:
    """The rows of a step, on their way."""

    def __init__(self, plan: Plan, fetched: tuple[Fetched, Fetched], arriving: Arriving | None) -> None:
        self.plan, self.items, self.users = plan, *fetched
        self._arriving = arriving

    def wait(self) -> None:
        """Until they are here."""
        if self._arriving is None:
            return
        for owner, block in enumerate(self._arriving.wait()):
            items = np.count_nonzero(self.items.owners == owner)
            self.items.put(owner, block[:items])
            self.users.put(owner, block[items:])

    @property
    def age(self) -> int:
        """Steps whose gradients the oldest of the rows lacks."""
        stamps = np.concatenate([self.items.stamps, self.users.stamps])
        stamps = stamps[stamps != _NO_ROW]
        return int(self.plan.number - stamps.min()) if len(stamps) else 0


class Shards:
    """This process's rows of both tables, and the way to those of the others."""

    def __init__(self, tables: Tables, peers: Peers) -> None:
        self._tables, self._peers = (tables.item, tables.user), peers
        self._dim = tables.item.config.dim
        self._steps = 0

    def begin(self) -> None:
        """A batch begins: its steps are counted from 0."""
        self._steps = 0

    def ask(self, plan: Plan) -> Asked:
        """Count what appears, and send every process the rows that it will need; returns while they travel."""
        for part in plan.parts:
            self._see(part)
        me, processes = self._peers.rank, self._peers.count
        fetched = [Fetched(wanted[me], self._dim, processes) for wanted in plan.wanted]
        if not plan.parts:
            return Asked(plan, (fetched[0], fetched[1]), None)
        items, users = self._tables
        mine = [self._mine(plan, p) for p in range(processes)]
        blocks = [np.concatenate([self._rows(items, i), self._rows(users, u)]) for i, u in mine]
        sizes = [sum(int(np.count_nonzero(f.owners == owner)) for f in fetched) for owner in range(processes)]
        return Asked(plan, (fetched[0], fetched[1]), self._peers.exchange(blocks, sizes))

    def push(self, asked: Asked, gradients: tuple[Floats, Floats], share: float) -> None:
        """Send gradients [keys, dim] of what was asked for to the owners, who move the rows by `share` of a step."""
        fetched, processes = (asked.items, asked.users), range(self._peers.count)
        blocks = [
            np.concatenate([each[f.owners == owner] for f, each in zip(fetched, gradients, strict=True)])
            for owner in processes
        ]
        keys = [self._mine(asked.plan, p) for p in processes]
        received = self._peers.exchange(blocks, [len(items) + len(users) for items, users in keys]).wait()
        pairs = [np.split(block, [len(items)]) for (items, _), block in zip(keys, received, strict=True)]
        for k, table in enumerate(self._tables):
            _learn(table, [pair[k] for pair in keys], [pair[k] for pair in pairs], share)

    def stepped(self) -> None:
        """A step is over, whether or not its gradients were taken."""
        self._steps += 1

    def items(self, keys: Keys) -> Floats:
        """Rows [n, dim] of the same items, on every process and as they are now; zeros where there is none."""
        mine = owners_of(keys, self._peers.count) == self._peers.rank
        rows = np.zeros((len(keys), self._dim), np.float32)
        rows[mine] = self._tables[0].gather(self._tables[0].find(keys[mine]))[0]
        out: Floats = self._peers.summed(rows).numpy()
        return out

    def _see(self, part: Part) -> None:
        now_us = now_of(part)
        if now_us is None:
            return
        layout = part.layout
        both = ((layout.item_ids + layout.history_ids, part.item_keys), (layout.users, part.user_keys))
        for table, (ids, keys) in zip(self._tables, both, strict=True):
            table.sketch.add(keys)
            mine = np.flatnonzero(owners_of(keys, self._peers.count) == self._peers.rank)
            table.meet([ids[k] for k in mine], keys[mine], now_us)

    def _mine(self, plan: Plan, process: int) -> tuple[Keys, Keys]:
        """Items and shoppers that a process reads and this one owns."""
        items, users = (wanted[process] for wanted in plan.wanted)
        rank, processes = self._peers.rank, self._peers.count
        return items[owners_of(items, processes) == rank], users[owners_of(users, processes) == rank]

    def _rows(self, table: RowTable, keys: Keys) -> Floats:
        rows, masks = table.gather(table.find(keys))
        stamps: NDArray[np.float32] = np.where(masks > 0, np.float32(self._steps), np.float32(_NO_ROW))
        return np.concatenate([rows, stamps[:, None]], axis=1)


def _learn(table: RowTable, keys: Sequence[Keys], gradients: Sequence[Floats], share: float) -> None:
    """Add up the gradients of each key, in the order of the processes, and take the step."""
    unique, back = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.zeros((len(unique), table.config.dim), np.float32)
    np.add.at(sums, back, np.concatenate(gradients))
    slots = table.find(unique)
    known = slots >= 0  # one may have left since it was read
    table.learn(slots[known], sums[known], share)
