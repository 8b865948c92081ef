"""Items looked at near each other, counted, and told beside the model.

What follows an item is known once a few have gone there, long before its row has moved so far: neighbours and a
network hit different items, and together more than either (Jannach and Ludewig, 2017). Counting is incremental by
itself: one pass over what is new, and nothing is forgotten but what fades.
"""

from collections.abc import Mapping

import numpy as np
import torch
from scipy import sparse

from services.trainer.sequence.learner import Beside, Learner, Seen
from services.trainer.sequence.packed import NONE, Packed
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import State, Update

REACH = 20
"""Items ahead that count as near, and items back that are asked."""


_PARTS = ("data", "indices", "indptr")


class Covisits:
    """Counts of items near each other: one that comes k later counts 1 / k, one that came k before half of that."""

    def __init__(self, fade: float = 0.7, shrink: float = 16.0, decay: float = 0.7) -> None:
        """`fade`: what is left of older counts at each `learn`; `shrink`: sum of counts at which an item tells half
        of what it could; `decay`: weight of an item of the session for each item that came after it."""
        self.fade, self.shrink, self.decay = fade, shrink, decay
        self.counts = sparse.csr_array((0, 0), dtype=np.float32)

    def learn(self, sessions: Sessions, size: int) -> None:
        """Count sessions of slots, all below `size`."""
        self.counts.resize((size, size))
        self.counts = (self.counts * np.float32(self.fade) + _near(sessions, size)).tocsr()

    def beside(self, share: float) -> Beside:
        """[n, V] of each batch: share · chance that an item is next, less where the session's items have few counts."""
        total = np.asarray(self.counts.sum(axis=1)).ravel()
        chances = sparse.diags_array((share / (total + self.shrink)).astype(np.float32)) @ self.counts
        return lambda batch: (_sessions(batch, len(total), self.decay) @ chances).tocsr()

    def state(self) -> State:
        """The counts, in compressed rows."""
        return {f"covisits.{name}": torch.from_numpy(getattr(self.counts, name).copy()) for name in _PARTS}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take them in."""
        parts = tuple(state[f"covisits.{name}"].numpy() for name in _PARTS)
        size = len(parts[2]) - 1
        self.counts = sparse.csr_array(parts, (size, size))


def _near(sessions: Sessions, size: int) -> sparse.csr_array:
    """[V, V] counts of some sessions."""
    owner = np.repeat(np.arange(len(sessions)), sessions.lengths)
    counts = sparse.csr_array((size, size), dtype=np.float32)
    for apart in range(1, min(REACH, len(owner))):
        here = np.flatnonzero(owner[apart:] == owner[:-apart])
        if not len(here):
            break
        value = np.full(len(here), 1 / apart, np.float32)
        ahead = sparse.csr_array((value, (sessions.items[here], sessions.items[here + apart])), (size, size))
        counts = counts + ahead + ahead.T * np.float32(0.5)
    return counts


def _sessions(batch: Packed, size: int, decay: float) -> sparse.csr_array:
    """[n, V] weights of the items so far at each counted place, 1 in sum."""
    inputs, numbers, counted = batch.inputs.numpy(), batch.sessions.numpy(), batch.targets.numpy() != NONE
    place = np.cumsum(counted).reshape(counted.shape) - 1
    rows, items, weights = [], [], []
    for back in range(min(REACH, counted.shape[1])):
        end = counted.shape[1] - back
        same = counted[:, back:] & (numbers[:, back:] == numbers[:, :end])
        rows.append(place[:, back:][same])
        items.append(inputs[:, :end][same])
        weights.append(np.full(len(rows[-1]), decay**back, np.float32))
    found = sparse.csr_array(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(items))), (int(counted.sum()), size)
    )
    total = np.maximum(np.asarray(found.sum(axis=1)).ravel(), np.float32(1e-9))
    return (sparse.diags_array(1 / total) @ found).tocsr()


class WithCovisits:
    """Any way, with counts of what followed told beside its network.

    Counts need no training: they take in what is new, held-out sessions too, when an update is done.
    """

    def __init__(self, way: Update, share: float = 0.5, fade: float = 0.7) -> None:
        """`share` of the counts where they know enough; 1: the network is asked only where they do not."""
        self.way, self.share, self.covisits = way, share, Covisits(fade)
        self.fresh, self.closes = way.fresh, way.closes

    @property
    def dropout(self) -> float:
        """The way's."""
        return self.way.dropout

    def learns(self, period: int) -> bool:
        """As the way does."""
        return self.way.learns(period)

    def sessions(self, newest: Sessions, random: np.random.Generator) -> Sessions:
        """As the way does."""
        return self.way.sessions(newest, random)

    def begin(self, learner: Learner, data: Sessions) -> None:
        """As the way does."""
        self.way.begin(learner, data)

    def term(self, learner: Learner, seen: Seen) -> torch.Tensor | None:
        """As the way does."""
        return self.way.term(learner, seen)

    def gradient(self, learner: Learner) -> None:
        """As the way does."""
        self.way.gradient(learner)

    def finish(self, learner: Learner, held_out: Sessions) -> None:
        """As the way does."""
        self.way.finish(learner, held_out)

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Count what was new."""
        self.way.remember(learner, newest, random)
        self.covisits.learn(learner.slots(newest), len(learner.rows))

    def beside(self) -> Beside:
        """The counts so far."""
        return self.covisits.beside(self.share)

    def state(self) -> State:
        """The counts, beside what the way remembers."""
        return self.way.state() | self.covisits.state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take them in."""
        self.way.load(state)
        self.covisits.load(state)
