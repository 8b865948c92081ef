"""Exemplars, their number and their choice, and what the last model's opinion of them does."""

import numpy as np
import pytest
import torch

from services.trainer.sequence import periods
from services.trainer.sequence.ader import Ader, herd, quotas
from services.trainer.sequence.learner import Learner
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.ways import Dropout
from tests.trainer.test_sequence import lists_of, sessions_of, some_sessions
from tests.trainer.test_sequence_periods import SMALL, quiet, shop


def test_only_the_end_of_each_session_is_asked() -> None:
    given = some_sessions(40, 12)
    packed = pack(given, 8, last_only=True)
    asked = []
    for row, at in torch.nonzero(packed.targets != NONE).tolist():
        own = (packed.sessions[row] == packed.sessions[row, at]) & (torch.arange(8) <= at)
        asked.append((*packed.inputs[row][own].tolist(), int(packed.targets[row, at])))
    assert sorted(asked) == sorted(tuple(part[-9:]) for part in lists_of(given))


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_quotas_are_within_one_of_the_exact_share_and_sum_to_the_size(size: int) -> None:
    counts = np.random.default_rng(0).integers(1, 30, 50)
    found = quotas(counts, size)
    assert found.sum() == min(size, counts.sum())
    assert (np.abs(found - counts * min(1, size / counts.sum())) < 1).all()
    assert (found <= counts).all()


def test_each_herded_exemplar_brings_the_mean_as_near_as_any_could() -> None:
    features = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    chosen = herd(features, 6)
    assert len(set(chosen)) == 6
    for count, best in enumerate(chosen):
        others = [i for i in range(20) if i not in chosen[:count]]
        gaps = {i: np.linalg.norm(features.mean(0) - features[[*chosen[:count], i]].mean(0)) for i in others}
        assert gaps[best] == pytest.approx(min(gaps.values()))


def updated(way: Ader, given: list) -> Learner:
    learner = Learner(SMALL, seed=1)
    for period, newest in enumerate(given):
        periods.update(learner, way, newest, period, 1, quiet)
    return learner


def test_exemplars_are_prefixes_of_what_was_learned() -> None:
    way, newest = Ader(size=50), shop(0, n=60)
    updated(way, [newest])
    prefixes = {tuple(part[:end]) for part in lists_of(newest) for end in range(2, len(part) + 1)}
    assert len(way.kept) == 50
    assert {tuple(part) for part in lists_of(way.kept)} <= prefixes


def test_the_weight_rises_with_the_share_of_old_items_and_falls_with_what_is_new() -> None:
    way = Ader(size=40, weight=0.8)
    learner = updated(way, [shop(0, n=60)])
    known = len(learner.rows)
    learner.rows.add(np.arange(20), seed=3)
    data = learner.slots(shop(0, n=60).take(np.arange(9)))
    way.begin(learner, data)
    assert way.share == pytest.approx(0.8 * np.sqrt(known / (known + 20) * 40 / 27))


def test_a_model_that_still_answers_like_its_teacher_is_not_pulled() -> None:
    way = Ader(size=40)
    learner = updated(way, [shop(0, n=60)])
    learner.begin(np.ones(len(learner.rows), np.int64), 5, dropout=0.0)
    way.begin(learner, learner.slots(shop(1, n=30)))
    term = way.term(learner, None)  # type: ignore[arg-type]
    assert term is not None
    learner.model.zero_grad()
    term.backward()
    assert all(float(p.grad.abs().max()) < 1e-4 for p in learner.model.parameters() if p.grad is not None)


def test_what_only_the_past_knew_is_forgotten_less() -> None:
    halves = [shop(0), shop(1)]
    low, high = (half.known((half.items < 1030) == first) for half, first in zip(halves, (True, False), strict=True))
    with_exemplars = periods.ask(updated(Ader(size=300), [low, high]), low).mrr
    without = periods.ask(updated(Dropout(), [low, high]), low).mrr  # type: ignore[arg-type]
    assert with_exemplars > without


def test_without_exemplars_nothing_is_added() -> None:
    way, learner = Ader(), Learner(SMALL, seed=1)
    way.begin(learner, sessions_of([1, 2]))
    assert way.term(learner, None) is None  # type: ignore[arg-type]
