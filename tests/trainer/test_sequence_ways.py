"""Anchors, fusion, low-rank adapters, distillation and learned gates: what defines each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.trainer.sequence import periods
from services.trainer.sequence.anchors import ChosenFusion, ElasticWeights, Fusion, OnlineElasticWeights, fisher
from services.trainer.sequence.distillation import Distillation, Teacher, familiar
from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.lowrank import LowRank, factors
from services.trainer.sequence.mixing import ROWS, put, weights
from services.trainer.sequence.model import Sizes
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.transfer import FEATURES, LearnedTransfer, carry
from services.trainer.sequence.ways import Dropout, State, Update
from tests.trainer.test_sequence import sessions_of
from tests.trainer.test_sequence_periods import SMALL, quiet, shop

SHORT = replace(SMALL, epochs=3, patience=3)


def updated(way: Update, given: list[Sessions], settings: object = SHORT) -> Learner:
    learner = Learner(settings, seed=1)  # type: ignore[arg-type]
    for period, newest in enumerate(given):
        periods.update(learner, way, newest, period, 1, quiet)
    return learner


def two() -> list[Sessions]:
    """Two periods; the second has items that the first has not, and another rule."""
    second = shop(1, shift=7, n=80)
    return [shop(0, n=80), replace(second, items=second.items + 10)]


def state_of(way: Update, given: list[Sessions]) -> State:
    learner = updated(way, given)
    return weights(learner, len(learner.rows))


def same(a: State, b: State) -> bool:
    return all(torch.equal(a[name][: len(value)], value) for name, value in b.items())


def test_fusion_with_no_share_is_the_old_model_and_with_all_the_new_bit_for_bit() -> None:
    old, new = state_of(Dropout(), two()[:1]), state_of(Dropout(), two())
    none, all_of_it = state_of(Fusion(0.0), two()), state_of(Fusion(1.0), two())
    assert not same(new, old)
    assert same(none, old)
    assert torch.equal(none[ROWS][len(old[ROWS]) :], new[ROWS][len(old[ROWS]) :])
    assert same(all_of_it, new)


def test_fusion_lies_on_the_line_between_old_and_new() -> None:
    old, new = state_of(Dropout(), two()[:1]), state_of(Dropout(), two())
    for name, found in state_of(Fusion(0.3), two()).items():
        wanted = old[name] + 0.3 * (new[name][: len(old[name])] - old[name])
        torch.testing.assert_close(found[: len(wanted)], wanted)


def test_no_other_share_scores_the_held_out_sessions_better_than_the_chosen_one() -> None:
    way, given = ChosenFusion(), two()
    found = updated(way, given)
    asked = found.slots(given[1].held_out(periods.HELD_OUT)[1])
    scores = {}
    for share in ChosenFusion.SHARES:
        plain = Fusion(share)
        plain.closes = False
        other = updated(plain, given).scores(asked)
        scores[share] = other.recall + other.mrr
    mine = found.scores(asked)
    assert mine.recall + mine.mrr == max(scores.values()) == scores[way.share]


def tiny() -> tuple[Learner, Sessions]:
    learner = Learner(replace(SMALL, sizes=Sizes(dim=4, blocks=1, heads=1, length=4, scale=3.0)), seed=1)
    learner.rows.add(np.arange(5), seed=1)
    learner.begin(np.ones(5, np.int64), 1, dropout=0.0)
    return learner, sessions_of([0, 1, 2], [3, 4, 0])


def exact_fisher(learner: Learner, data: Sessions) -> list[torch.Tensor]:
    """Sum over questions and over every answer of its chance times the squared gradient of its logarithm."""
    batch, table = pack(data, 4), learner.rows.values.clone().requires_grad_()
    leaves = [*learner.model.parameters(), table]
    vectors = learner.model.items(table)
    hidden = learner.model(vectors[batch.inputs], batch.sessions)[batch.targets != NONE]
    out = [torch.zeros_like(leaf) for leaf in leaves]
    for chance in torch.log_softmax(hidden @ vectors.T, dim=-1).flatten():
        for total, slope in zip(out, torch.autograd.grad(chance, leaves, retain_graph=True), strict=True):
            total += chance.detach().exp() * slope**2
    return out


def test_the_fisher_information_is_that_of_all_answers() -> None:
    learner, data = tiny()
    draws = [list(fisher(learner, data, 8, np.random.default_rng(seed)).values()) for seed in range(300)]
    for parts, wanted in zip(zip(*draws, strict=True), exact_fisher(learner, data), strict=True):
        found = torch.stack(list(parts)).mean(0)
        assert float((found - wanted).norm()) <= 0.2 * float(wanted.norm()) + 1e-6


def test_the_penalty_is_half_the_information_times_the_squared_way_per_target() -> None:
    learner, data = tiny()
    way = ElasticWeights(strength=3.0)
    way.remember(learner, data, np.random.default_rng(0))
    way.begin(learner, data)
    seen = learner.see(pack(data, 4))
    assert float(way.term(learner, seen).detach()) == 0  # type: ignore[union-attr]
    with torch.no_grad():
        learner.model.last.weight += 2.0
        learner.rows.values[3] += 1.0
    seen = learner.see(pack(data, 4))
    wanted = 4.0 * way.fisher["model.last.weight"].sum() + way.fisher[ROWS][3].sum()
    torch.testing.assert_close(way.term(learner, seen), 3.0 / (2 * 4) * wanted)


def test_older_information_fades_online_and_stays_otherwise() -> None:
    learner, data = tiny()
    plain, online = ElasticWeights(), OnlineElasticWeights(fade=0.9)
    for way in (plain, online):
        way.remember(learner, data, np.random.default_rng(1))
    first = plain.fisher
    for way in (plain, online):
        way.remember(learner, data, np.random.default_rng(2))
    for name, value in first.items():
        torch.testing.assert_close(online.fisher[name], plain.fisher[name] - 0.1 * value)


def rules() -> list[Sessions]:
    """Two periods of the same items by two rules: what follows an item in one never does in the other."""
    return [shop(0, n=150), shop(1, shift=7, n=150)]


def test_held_weights_forget_less() -> None:
    held, plain = (updated(way, rules(), SMALL) for way in (ElasticWeights(strength=10.0), Dropout()))
    old = shop(2, n=100)
    assert periods.ask(held, old).mrr > periods.ask(plain, old).mrr + 0.05


def test_adapters_leave_the_base_and_differ_from_it_by_their_rank() -> None:
    way, given = LowRank(rank=2), [*two(), shop(2, n=80)]
    base = state_of(Dropout(), given[:1])
    found = weights(updated(way, given), 0)
    for name, value in way.base.items():
        assert torch.equal(value, base[f"model.{name}"])
        apart = found[f"model.{name}"] - value
        if value.dim() == 2 and min(value.shape) > 4:
            assert bool(apart.any())
            assert int(torch.linalg.matrix_rank(apart, atol=1e-5)) <= 2
        else:
            assert not bool(apart.any())


def test_factors_learn_by_the_gradient_of_what_they_are_merged_into() -> None:
    learner = updated(way := LowRank(rank=2, alpha=6.0), two())
    way.begin(learner, learner.slots(two()[1]))
    pairs = {name: (b.detach().clone(), a.detach().clone()) for name, (b, a) in way.pairs.items()}
    learner.backward(learner.loss(learner.see(pack(learner.slots(two()[1]), 8))))
    slopes = {name: weight.grad.clone() for name, weight in learner.model.named_parameters()}  # type: ignore[union-attr]
    way.gradient(learner)
    for name, (b, a) in pairs.items():
        torch.testing.assert_close(way.pairs[name][0].grad, 3.0 * slopes[name] @ a.T)
        torch.testing.assert_close(way.pairs[name][1].grad, 3.0 * b.T @ slopes[name])


def test_factors_give_back_a_product_of_their_rank_and_start_at_nothing() -> None:
    product = torch.randn(9, 3) @ torch.randn(3, 7)
    b, a = factors(product, 3)
    torch.testing.assert_close(b @ a, product, atol=1e-5, rtol=1e-4)
    b, a = factors(torch.zeros(9, 7), 3)
    assert not bool(b.any())
    assert float(a.norm()) > 0.5


def distilled() -> tuple[Learner, Distillation, Seen]:
    way = Distillation(weight=1.0, temperature=2.0)
    learner = updated(way, two()[:1])
    learner.rows.add(two()[1].items, seed=2)
    learner.begin(np.ones(len(learner.rows), np.int64), 5, dropout=0.0)
    data = learner.slots(two()[1])
    way.begin(learner, data)
    return learner, way, learner.see(pack(data, 8))


def test_the_soft_part_is_the_squared_temperature_times_the_cross_entropy_with_the_last_model() -> None:
    learner, way, _ = distilled()
    asked = learner.slots(two()[1])
    old = weights(learner, len(learner.rows))
    with torch.no_grad():
        learner.model.last.weight += torch.randn(16)
    seen = learner.see(pack(asked, 8))
    where = familiar(seen.batch, way.known)[seen.batch.targets != NONE]
    students = seen.hidden[where] @ seen.vectors[: way.known].T
    put(learner, old)
    again = learner.see(pack(asked, 8))
    teachers = again.hidden[where] @ again.vectors[: way.known].T
    wanted = torch.softmax(teachers / 2, 1) * torch.log_softmax(students / 2, 1)
    assert 0 < int(where.sum()) < len(where)
    torch.testing.assert_close(way.term(learner, seen), -4 * wanted.sum(1).mean())


def test_learning_the_soft_part_alone_keeps_the_scores() -> None:
    learner, way, seen = distilled()
    asked = learner.slots(shop(2, n=50))
    before = learner.scores(asked)
    for _ in range(10):
        term = way.term(learner, learner.see(seen.batch))
        assert term is not None
        learner.backward(term)
        assert max(float(weight.grad.abs().max()) for weight in learner.model.parameters()) < 1e-5  # type: ignore[union-attr]
    assert learner.scores(asked) == before


def test_the_soft_part_alone_pulls_a_strayed_model_back() -> None:
    learner, way, seen = distilled()
    teacher = Teacher(learner, way.known)
    least = float(teacher.crossed(seen).mean().detach())
    with torch.no_grad():
        learner.model.last.weight += torch.randn(16)
    strayed = float(teacher.crossed(learner.see(seen.batch)).mean().detach())
    for _ in range(60):
        term = way.term(learner, learner.see(seen.batch))
        assert term is not None
        learner.step(term)
    found = float(teacher.crossed(learner.see(seen.batch)).mean().detach())
    assert found - least < 0.5 * (strayed - least)


def test_without_a_last_model_there_is_no_soft_part() -> None:
    way, learner = Distillation(), Learner(SMALL, seed=1)
    learner.rows.add(np.arange(5), seed=1)
    learner.begin(np.ones(5, np.int64), 1, dropout=0.0)
    way.begin(learner, sessions_of([1, 2]))
    assert way.term(learner, learner.see(pack(sessions_of([1, 2]), 8))) is None


def gated() -> tuple[LearnedTransfer, Learner]:
    way = LearnedTransfer(epochs=3)
    return way, updated(way, two())


def test_closed_gates_are_the_old_model_and_open_ones_the_new_bit_for_bit() -> None:
    way, _ = gated()
    assert not same(way.new, way.old)
    closed, opened = (
        torch.full((len(way.old) - 1 + FEATURES,), -200.0),
        torch.full((len(way.old) - 1 + FEATURES,), 200.0),
    )
    assert same(way.combined(closed), way.old)
    assert same(way.combined(opened), way.new)


def test_the_first_two_updates_are_those_of_plain_tuning() -> None:
    assert same(state_of(LearnedTransfer(), two()), state_of(Dropout(), two()))


def test_gates_close_when_the_old_rule_comes_back_and_open_when_the_new_one_goes_on() -> None:
    first = LearnedTransfer(epochs=4)
    learner = updated(first, rules(), SMALL)
    for shift, end, other in ((1, first.old, first.new), (7, first.new, first.old)):
        way, asked = LearnedTransfer(epochs=4), shop(6, shift=shift, n=100)
        way.load(first.state())
        learner.begin(np.ones(len(learner.rows), np.int64), 3, dropout=0.0)
        way.begin(learner, learner.slots(shop(5, shift=shift, n=150)))
        found = periods.ask(learner, asked).mrr
        put(learner, end)
        assert found == pytest.approx(periods.ask(learner, asked).mrr, abs=0.05)
        put(learner, other)
        assert found > periods.ask(learner, asked).mrr + 0.5


def test_the_gradient_of_the_gates_is_that_of_the_loss() -> None:
    way, learner = gated()
    learner.begin(np.ones(len(learner.rows), np.int64), 5, dropout=0.0)
    batch = pack(learner.slots(shop(2, n=40)), 8)

    def loss(logits: torch.Tensor) -> Seen:
        put(learner, way.combined(logits))
        return learner.see(batch)

    leaf = (0.1 * torch.ones(len(way.old) - 1 + FEATURES)).requires_grad_()
    combined = way.combined(leaf)
    seen = loss(leaf)
    learner.backward(learner.loss(seen))
    carry(learner, combined, seen)
    step = 0.05
    for at in range(len(leaf)):
        ahead, behind = (leaf.detach() + sign * step * torch.eye(len(leaf))[at] for sign in (1, -1))
        slope = (learner.loss(loss(ahead)) - learner.loss(loss(behind))).detach() / (2 * step)
        assert float(leaf.grad[at]) == pytest.approx(float(slope), abs=2e-4, rel=0.02)  # type: ignore[index]
