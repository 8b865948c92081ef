"""ADER (Mi et al., 2020): herded exemplars of the past, and what the last model says of them, weighed by what is new.

Beside the loss of what is new, each step asks some exemplars, and takes the cross-entropy between what the model of
the last update would answer and what this one does, over the items known then.
"""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.sequence.distillation import Teacher
from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.packed import NONE, Packed, pack
from services.trainer.sequence.sessions import Ints, Sessions, joined, spans
from services.trainer.sequence.ways import Keeping, State


class Ader(Keeping):
    """Exemplars are prefixes with their next item; each item has as many as its share of all targets."""

    def __init__(self, size: int = 30_000, weight: float = 0.8) -> None:
        """`size` exemplars; `weight`: lambda_base of the paper (30,000 and 0.8 for diginetica there)."""
        super().__init__()
        self.size, self.weight = size, weight
        self.known = 0
        """Items known to the model of the last update."""
        self.share = 0.0
        """Weight of the exemplars in this update."""
        self._teacher: Teacher | None = None

    def sessions(self, newest: Sessions, random: np.random.Generator) -> Sessions:
        """What is new; exemplars are asked in `term`."""
        return newest

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Keep the last model as the teacher, and spread the exemplars over the steps of an epoch."""
        if not len(self.kept):
            return
        self._teacher = Teacher(learner, self.known)
        targets = int(data.lengths.sum()) - len(data)
        self.share = self.weight * (self.known / len(learner.rows) * len(self.kept) / max(1, targets)) ** 0.5
        length, rows = learner.settings.sizes.length, learner.settings.rows
        steps = max(1, -(-len(pack(data, length)) // rows))
        self._exemplars = self._endless(learner, length, steps)

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """The weighted cross-entropy of the teacher's and the model's answers for some exemplars."""
        if self._teacher is None:
            return None
        return self.share * self._teacher.crossed(learner.see(next(self._exemplars))).mean()

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Choose exemplars anew from all prefixes of what was new and the exemplars so far."""
        prefixes = joined([_prefixes(newest), self.kept])
        slots = learner.slots(prefixes)
        features, targets = _features(learner, slots)
        self.kept = prefixes.take(_herded(features, targets, self.size))
        self.known = len(learner.rows)
        self._teacher = None

    def state(self) -> State:
        """The exemplars and how many items were known."""
        return super().state() | {"known": torch.tensor(self.known)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        super().load(state)
        self.known = int(state["known"])

    def _endless(self, learner: Learner, length: int, steps: int) -> Iterator[Packed]:
        slots = learner.slots(self.kept)
        while True:
            order: Ints = learner.random.permutation(len(slots))
            packed = pack(slots.take(order), length, last_only=True)
            yield from packed.batches(max(1, -(-len(packed) // steps)))


def quotas(counts: Ints, size: int) -> Ints:
    """How many of each kind to keep: in proportion to `counts`, `size` in all, by largest remainder.

    >>> quotas(np.array([6, 3, 1]), 5).tolist()
    [3, 2, 0]
    """
    exact = counts * min(1.0, size / max(1, int(counts.sum())))
    out: Ints = np.floor(exact + 1e-9).astype(np.int64)
    left = min(size, int(counts.sum())) - int(out.sum())
    out[np.argsort(out - exact, kind="stable")[:left]] += 1
    return out


def herd(features: NDArray[np.float32], size: int) -> list[int]:
    """Which of `features` [n, D] to keep, best first, so that their mean stays near the mean of all (Welling, 2009).

    >>> herd(np.array([[0.0], [4.0], [8.0]], np.float32), 2)
    [1, 0]
    """
    mean, total = features.mean(0), np.zeros(features.shape[1], np.float32)
    free, chosen = np.ones(len(features), np.bool_), []
    for count in range(1, min(size, len(features)) + 1):
        away = np.square(mean - (total + features) / count).sum(1)
        best = int(np.argmin(np.where(free, away, np.inf)))
        free[best] = False
        total += features[best]
        chosen.append(best)
    return chosen


def _herded(features: NDArray[np.float32], targets: Ints, size: int) -> Ints:
    order = np.argsort(targets, kind="stable")
    _, counts = np.unique(targets, return_counts=True)
    ends = np.cumsum(counts)
    groups = zip(ends - counts, ends, quotas(counts, size), strict=True)
    chosen = (order[start:end][herd(features[order[start:end]], int(quota))] for start, end, quota in groups if quota)
    return np.fromiter(itertools.chain.from_iterable(chosen), np.int64)


def _prefixes(sessions: Sessions) -> Sessions:
    """Every prefix of two items or more as a session of its own."""
    counts = sessions.lengths - 1
    lengths = spans(np.full(len(counts), 2), counts)
    items = sessions.items[spans(np.repeat(sessions.starts[:-1], counts), lengths)]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Sessions(np.repeat(sessions.ids, counts), items, starts)


def _features(learner: Learner, prefixes: Sessions) -> tuple[NDArray[np.float32], Ints]:
    """Vectors [n, D] of prefixes of slots in their order, and their targets [n]."""
    length = learner.settings.sizes.length
    packed = pack(prefixes, length, last_only=True)
    # Where a session goes depends on lengths alone, so numbers packed as items tell which one is where.
    numbers = np.repeat(np.arange(len(prefixes)), prefixes.lengths)
    which = pack(Sessions(prefixes.ids, numbers, prefixes.starts), length, last_only=True).targets
    vectors = torch.cat([hidden for _, hidden, _ in learner.asked(packed)])
    out = torch.empty_like(vectors)
    out[which[which != NONE]] = torch.nn.functional.normalize(vectors, dim=-1)
    return out.numpy(), prefixes.items[prefixes.starts[1:] - 1]
