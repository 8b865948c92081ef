"""Counts of what is looked at near each other, alone and beside a network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.trainer.sequence import periods
from services.trainer.sequence.catalogue import BaseFusion
from services.trainer.sequence.covisits import Covisits, WithCovisits
from services.trainer.sequence.learner import Learner
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.ways import FineTune, Untrained
from tests.trainer.test_sequence import sessions_of, some_sessions
from tests.trainer.test_sequence_periods import SMALL, quiet, run, shop
from tests.trainer.test_sequence_ways import two


def test_an_item_counts_less_the_further_away_and_half_on_the_way_back() -> None:
    found = Covisits()
    found.learn(sessions_of([0, 1, 2], [0, 1]), 4)
    expected = [[0, 2, 0.5, 0], [1, 0, 1, 0], [0.25, 0.5, 0, 0], [0, 0, 0, 0]]
    assert found.counts.toarray() == pytest.approx(np.array(expected))


def test_older_counts_fade_at_each_learning_and_the_catalogue_may_grow() -> None:
    found = Covisits(fade=0.5)
    found.learn(sessions_of([0, 1]), 2)
    found.learn(sessions_of([0, 1], [0, 2]), 3)
    assert found.counts.toarray()[0] == pytest.approx([0, 1.5, 1])


@pytest.mark.parametrize("length", [4, 64])
def test_each_place_is_told_by_its_own_session_so_far(length: int) -> None:
    size, given = 50, some_sessions(40, 12, seed=3)
    found = Covisits(shrink=2.0, decay=0.5)
    found.learn(given, size)
    counts = found.counts.toarray()
    chances = counts / (counts.sum(1, keepdims=True) + 2.0)
    for batch in pack(given, length).batches(16):
        told, at = found.beside(0.6)(batch).toarray(), 0
        for row, column in zip(*np.nonzero((batch.targets != NONE).numpy()), strict=True):
            before = np.flatnonzero(batch.sessions[row, : column + 1] == batch.sessions[row, column])
            weights = 0.5 ** (column - before)
            mean = weights @ chances[batch.inputs[row, before].numpy()] / weights.sum()
            assert told[at] == pytest.approx(0.6 * mean, abs=1e-6)
            at += 1
        assert at == len(told)


def test_counts_alone_learn_a_rule_in_one_pass_without_a_step() -> None:
    way = WithCovisits(Untrained(), share=1.0)
    learner = Learner(SMALL, seed=1)
    fitted = periods.update(learner, way, shop(0), 0, 1, quiet)
    assert fitted.steps == 0
    assert periods.ask(learner, shop(1)).mrr < 0.3
    assert periods.ask(learner, shop(1), way.beside()).mrr > 0.5


def test_beside_a_network_counts_tell_items_that_it_knows_too_little_of() -> None:
    way, hardly = WithCovisits(BaseFusion()), replace(SMALL, epochs=1)
    learner = run(way, [shop(0, n=80)], hardly)
    alone, beside = (periods.ask(learner, shop(1), told).mrr for told in (None, way.beside()))
    assert beside > alone + 0.1


def test_the_network_learns_as_without_counts() -> None:
    plain, counted = run(FineTune(), two()), run(WithCovisits(FineTune()), two())
    assert all(torch.equal(value, counted.state()[name]) for name, value in plain.state().items())


def test_counts_come_back_after_a_restart_bit_for_bit() -> None:
    way, again = WithCovisits(BaseFusion()), WithCovisits(BaseFusion())
    run(way, two())
    again.load({name: value.clone() for name, value in way.state().items()})
    assert (again.covisits.counts != way.covisits.counts).nnz == 0
    assert again.dropout == 0.0
    for each in (way, again):
        each.covisits.learn(sessions_of([0, 1, 2]), 200)
    assert (again.covisits.counts != way.covisits.counts).nnz == 0
    assert again.covisits.counts.nnz > 100
