"""The period protocol of incremental next-item learning, after ADER (Mi et al., 2020).

After period t - 1 the model is updated on it; then every prefix of every session of period t asks for its next item,
ranked among all items seen so far. Items that were never seen are dropped from the test. A tenth of the newest
sessions, by the hash of their id, is held out to end training by; items that it alone shows learn it at last (`close`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from services.trainer.sequence.learner import Beside, Learner
from services.trainer.sequence.metrics import Scores
from services.trainer.sequence.packed import pack
from services.trainer.sequence.sessions import Ints, Sessions
from services.trainer.sequence.ways import Update

HELD_OUT = 0.1


@dataclass(frozen=True)
class Fit:
    """What one update took."""

    epochs: int
    best: int
    """Epoch whose weights were kept, from 1."""
    steps: int
    samples: int
    """Targets trained on, over all epochs."""
    sessions: int
    """Sessions trained on in an epoch."""


Report = Callable[[int, float, Scores], None]
"""Called after each epoch with its number, the mean training loss and the held-out scores."""


def seed_of(seed: int, period: int) -> int:
    """Of one update: chance does not depend on what ran before it, so a restart goes on the same."""
    return int(np.random.SeedSequence([seed, period]).generate_state(1)[0])


def update(learner: Learner, way: Update, newest: Sessions, period: int, seed: int, report: Report) -> Fit:
    """Bring the learner up to date with period `period`, whose sessions are `newest` (of items)."""
    start = seed_of(seed, period)
    learner.rows.add(newest.items, start)
    random = np.random.default_rng(start)
    if not way.learns(period):
        way.remember(learner, newest, random)
        return Fit(0, 0, 0, 0, 0)
    training, held_out = newest.held_out(HELD_OUT)
    data = learner.slots(way.sessions(training, random))
    if way.fresh:
        learner.reset(start)
    popularity = np.bincount(data.items, minlength=len(learner.rows))
    learner.begin(popularity, start, way.dropout)
    way.begin(learner, data)
    asked = learner.slots(held_out)
    found = fit(learner, way, data, asked, report)
    if way.closes:
        found = close(learner, way, data, asked, found)
    way.finish(learner, asked)
    way.remember(learner, newest, random)
    return found


def pass_by(learner: Learner, way: Update, newest: Sessions, period: int, seed: int) -> None:
    """Remember a period without an update: for a way whose updates are too dear to make after each."""
    start = seed_of(seed, period)
    learner.rows.add(newest.items, start)
    way.remember(learner, newest, np.random.default_rng(start))


def fit(learner: Learner, way: Update, data: Sessions, held_out: Sessions, report: Report) -> Fit:
    """Train by epochs until the held-out score has not risen for `patience` of them; the best weights are restored."""
    settings = learner.settings
    best, kept, best_score, steps, epoch = 0, learner.state(), -1.0, 0, 0
    targets = int(data.lengths.sum()) - len(data)
    while epoch < settings.epochs and epoch - best < settings.patience:
        epoch += 1
        batches, loss = _epoch(learner, way, data)
        steps += batches
        found = learner.scores(held_out)
        report(epoch, loss, found)
        if found.recall + found.mrr > best_score:
            best, kept, best_score = epoch, learner.state(), found.recall + found.mrr
    learner.load(kept)
    return Fit(epoch, best, steps, epoch * targets, len(data))


def close(learner: Learner, way: Update, data: Sessions, held_out: Sessions, found: Fit) -> Fit:
    """Let the items that `held_out` (slots) alone shows learn from it, as often as `data` was; all else stays.

    The next period asks for them, and their rows have met nothing yet but the role of a wrong answer.
    """
    strange = torch.from_numpy(np.bincount(data.items, minlength=len(learner.rows)) == 0)
    steps = sum(_epoch(learner, way, held_out, strange)[0] for _ in range(found.best))
    targets = int(held_out.lengths.sum()) - len(held_out)
    return replace(found, steps=found.steps + steps, samples=found.samples + found.best * targets)


def ask(learner: Learner, sessions: Sessions, beside: Beside | None = None) -> Scores:
    """Every prefix of the sessions (of items) of the next period; `beside`: what the way tells beside the model."""
    return learner.scores(learner.slots(sessions), beside)


def _epoch(learner: Learner, way: Update, data: Sessions, only: Tensor | None = None) -> tuple[int, float]:
    """(steps, mean loss) of one pass over the data in a new order; `only` [V]: rows that may move, and nothing else."""
    order: Ints = learner.random.permutation(len(data))
    total, steps = 0.0, 0
    for batch in pack(data.take(order), learner.settings.sizes.length).batches(learner.settings.rows):
        seen = learner.see(batch)
        loss = learner.loss(seen)
        total, steps = total + loss.item(), steps + 1
        added = way.term(learner, seen)
        learner.backward(loss if added is None else loss + added)
        if only is None:
            way.gradient(learner)
            learner.move()
        else:
            learner.move_rows(only)
    return steps, total / max(1, steps)
