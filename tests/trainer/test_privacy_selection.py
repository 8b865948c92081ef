"""Noise on selected rows: who survives, what it costs, and that one shopper is hidden in both sums together."""

import math
from pathlib import Path

import numpy as np
import pytest
from opacus.accountants import RDPAccountant
from scipy.stats import binom, kstest, norm

from services.common.ids import keys_of
from services.trainer.control import Control
from services.trainer.privacy import accountant, config
from services.trainer.privacy.ledger import NAME
from services.trainer.privacy.mechanism import Contribution, Doubles, noise_source
from services.trainer.privacy.selection import SelectedSum, Selection
from tests.trainer.arm import digest, run
from tests.trainer.privately import (
    SECRET,
    chosen,
    epsilon_of,
    gone,
    items_file,
    opened,
    private,
    rounds_of,
    started,
    strategy,
    until,
)
from tests.trainer.strategies.shop import learned
from tests.trainer.world import FileSource, Shop

LINE = "private(100, 1e-6, 2, 1, 4, 5), selected(3, 4)"


def selected(selection: Selection, rows: int = 50, dense: int = 3) -> SelectedSum:
    return SelectedSum(dense, np.arange(rows) * 2, 4, selection)


def shopper(slots: list[int], size: float = 1.0) -> Contribution:
    return Contribution(np.full(3, size), np.array(slots), np.full((len(slots), 4), size))


# The bill


@pytest.mark.parametrize(("map_noise", "noise", "rounds"), [(3.0, 2.0, 11), (20.0, 5.0, 40), (0.7, 40.0, 3)])
def test_a_round_costs_what_both_gaussian_mechanisms_cost_together(map_noise: float, noise: float, rounds: int) -> None:
    plan = config.parse(f"private(8, 1e-6, {noise}), selected({map_noise}, 2)")
    assert plan is not None
    one_by_one = RDPAccountant()
    history = [(map_noise, 1.0, rounds), (noise, 1.0, rounds)]
    one_by_one.load_state_dict({"history": history, "mechanism": one_by_one.mechanism()})
    both = float(one_by_one.get_epsilon(1e-6, alphas=accountant.ORDERS))
    assert accountant.epsilon({plan.charged: rounds}, 1e-6) == pytest.approx(both, rel=1e-9)
    assert both > accountant.epsilon({noise: rounds}, 1e-6)


def test_the_budget_counts_the_selection_too(tmp_path: Path) -> None:
    made = private(tmp_path, "private(4, 1e-6, 6, 1, 4, 5), selected(3, 4)")
    shop = Shop(users=8)
    while not strategy(made).stopped:
        learned(made, shop, 5)
    found = strategy(made)
    assert found.rounds == accountant.rounds_within(found.privacy)
    assert set(found.ledger.spent) == {6 * 3 / math.hypot(6, 3)}
    assert accountant.epsilon({6.0: found.rounds}, 1e-6) < found.epsilon <= 4


# Who survives


def test_rows_survive_as_if_every_one_had_its_own_normal_draw() -> None:
    known, rows, draws = Selection(noise=2.0, threshold=3.0, clip=0.5), 60, 4_000
    counts, touched = np.array([0.5, 3.0, 9.0]), np.array([0, 17, 59])
    found = np.zeros(rows)
    sizes = []
    for number in range(draws):
        places = known.survivors(noise_source(SECRET, number, ""), counts, touched, rows)
        assert (np.diff(places) > 0).all()
        found[places] += 1
        sizes.append(len(np.setdiff1d(places, touched)))
    expected = np.full(rows, norm.sf(3.0 / (2.0 * 0.5)))
    expected[touched] = norm.sf((3.0 - counts) / (2.0 * 0.5))
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(found / draws - expected) < 4.5 * spread + 1e-9).all()
    true = binom(rows - 3, known.by_noise())
    assert np.mean(sizes) == pytest.approx(true.mean(), rel=0.05)
    assert np.var(sizes) == pytest.approx(true.var(), rel=0.1)


def test_survivors_alone_have_noise_of_the_gradient_and_the_others_stay() -> None:
    total = selected(Selection(0.1, 2.5), rows=4_000)
    for _ in range(4):
        total.add(shopper([10, 20]).clipped(1))
    for slots in ([30], [30, 40]):
        total.add(shopper(slots))
    before = dict(zip(total.slots.tolist(), total.rows, strict=True))
    assert total.counts.tolist() == pytest.approx([4 / math.sqrt(2)] * 2 + [1 + 1 / math.sqrt(2), 1 / math.sqrt(2)])
    total.add_noise(noise_source(SECRET, 1, ""), 1e-3)
    assert total.slots.tolist() == [10, 20]
    for slot, row in zip(total.slots.tolist(), total.rows, strict=True):
        assert 0 < np.abs(row - before[slot]).max() < 0.01
    assert (total.dense != np.round(total.dense, 4)).all()


def test_noise_on_rows_that_nobody_touched_has_the_same_deviation() -> None:
    total = selected(Selection(1.0, 0.5), rows=20_000, dense=5_000)
    total.add_noise(noise_source(SECRET, 1, ""), 1.4)
    assert len(total.slots) == pytest.approx(20_000 * norm.sf(0.5), rel=0.05)
    assert kstest(total.rows.ravel() / 1.4, "norm").pvalue > 1e-3
    assert kstest(total.dense / 1.4, "norm").pvalue > 1e-3
    assert kstest(total.slots / 40_000, "uniform").pvalue > 1e-3


def test_a_shopper_changes_the_map_by_no_more_than_its_clip_norm() -> None:
    for slots, most in (([0], 0.5), (list(range(0, 40, 2)), 0.5), (list(range(0, 40, 2)), 3.0), ([0, 2], 3.0)):
        total = selected(Selection(1.0, 1.0, most))
        total.add(shopper(slots, 1e-9))
        assert np.linalg.norm(total.counts) == pytest.approx(min(most, math.sqrt(len(slots))))


def test_a_row_without_a_gradient_and_a_broken_gradient_touch_nothing() -> None:
    total = selected(Selection(1.0, 1.0))
    total.add(Contribution(np.ones(3), np.array([0, 2]), np.array([[0.0] * 4, [1.0] * 4])))
    total.add(Contribution(np.full(3, np.nan), np.array([4]), np.ones((1, 4))).clipped(1))
    assert total.slots.tolist() == [2]
    with pytest.raises(IndexError):
        total.add(shopper([1]))
    with pytest.raises(IndexError):
        total.add(shopper([100]))


def test_the_digest_tells_maps_and_settings_apart() -> None:
    def of(size: float = 1.0, selection: Selection | None = None, slots: tuple[int, ...] = (2, 4)) -> str:
        total = selected(selection or Selection(1.0, 1.0))
        total.add(shopper(list(slots), size))
        return total.digest(SECRET, 1.0)

    others = of(2.0), of(selection=Selection(1.0, 2.0)), of(selection=Selection(2.0, 1.0)), of(slots=(2, 6))
    assert of() == of()
    assert len({of(), *others}) == 5


# One shopper, hidden


def test_who_knows_all_but_one_bit_tells_it_no_better_than_one_mechanism_of_that_noise() -> None:
    """The likeliest answer from which rows survived, their noisy sums and the dense weights."""
    known, noise, rows, trials = Selection(1.0, 1.0), 1.5, 9, 1_500
    mine = Contribution(np.full(3, 0.4), np.array([0, 2]), np.full((2, 4), 0.25)).clipped(1)

    def total(there: bool) -> SelectedSum:
        out = selected(known, rows)
        out.add(shopper([0], 0.01))
        if there:
            out.add(mine)
        return out

    def map_of(there: bool) -> Doubles:
        out, mapped = total(there), np.zeros(rows)
        mapped[out.slots // 2] = out.counts
        return mapped

    def score(found: SelectedSum) -> float:
        survived = np.isin(np.arange(rows) * 2, found.slots)
        chances = [norm.sf(known.threshold - map_of(there)) for there in (True, False)]
        bits = sum(np.log(np.where(survived, p, 1 - p)).sum() * sign for p, sign in zip(chances, (1, -1), strict=True))
        at = np.isin(mine.slots, found.slots)
        rest = found.rows[np.searchsorted(found.slots, mine.slots[at])] - 0.01 * (mine.slots[at] == 0)[:, None]
        seen = (found.dense - 0.01) @ mine.dense + np.sum(rest * mine.rows[at])
        own = mine.dense @ mine.dense + np.sum(mine.rows[at] ** 2)
        return float(bits + (seen - own / 2) / noise**2)

    scores: dict[bool, list[float]] = {True: [], False: []}
    for there in scores:
        for trial in range(trials):
            out = total(there)
            out.add_noise(noise_source(bytes([there]) * 32, trial, ""), noise)
            scores[there].append(score(out))
    auc = float(np.mean(np.array(scores[True])[:, None] > np.array(scores[False])))
    ceiling = norm.cdf(1 / (known.charged(noise) * math.sqrt(2)))
    of_the_sum_alone = norm.cdf(1 / (noise * math.sqrt(2)))
    assert of_the_sum_alone - 0.1 < auc <= ceiling + 0.02


# In the trainer


def test_only_survivors_move_and_rows_outside_the_log_may_be_among_them(tmp_path: Path) -> None:
    made = private(tmp_path, LINE, privacy_items=items_file(tmp_path, 1_500))
    before = made.tables.item.rows.copy()
    shop = Shop(users=8, items=40)
    while not strategy(made).rounds:
        learned(made, shop, 1, at_once=1)
    table = made.tables.item
    moved = np.flatnonzero((table.rows != before).any(1))
    of_log = table.find(keys_of(f"item-{k}" for k in range(40)))
    strangers = len(np.setdiff1d(moved, of_log))
    assert strangers == pytest.approx(1_460 * norm.sf(4 / 3), rel=0.35)
    assert len(moved) < 400
    assert sorted(table.find(keys_of(table.changed()[0]))) == moved.tolist()  # these alone are pushed


def test_after_a_kill_survivors_weights_and_epsilon_are_those_of_the_undisturbed(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9, items=20, listed=6).messages(60)})
    whole, twice = started(tmp_path, source)
    loop, clock = opened(whole, source, chosen(whole, LINE))
    run(loop, clock, source)
    for stop in (20, 45):
        source.seek({})
        first, clock = opened(twice, source, chosen(twice, LINE))
        until(first, clock, stop)
        gone(first)
    last, clock = opened(twice, source, chosen(twice, LINE))
    run(last, clock, source)
    assert digest(last.arm.learner) == digest(loop.arm.learner)
    assert epsilon_of(last) == epsilon_of(loop) > 0
    assert [(f / "arms/main" / NAME).read_bytes().count(b"\n") for f in (whole, twice)] == [rounds_of(loop)] * 2


def test_going_back_refunds_no_selection(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9).messages(60)})
    loop, clock = opened(tmp_path, source, chosen(tmp_path, LINE))
    run(loop, clock, source)
    spent = epsilon_of(loop)
    loop.arm.begin(Control(epoch=2, lineage=2, from_checkpoint="1-1"))
    assert epsilon_of(loop) == spent
    source._sizes = (5,)  # other cuts give other sums: releases of their own
    run(loop, clock, source)
    assert epsilon_of(loop) > spent


@pytest.mark.parametrize(
    "text",
    ["selected(3, 4)", "selected(3, 4), private(8, 1e-6, 4)", f"{LINE}, selected(3, 4)", "private(8, 1e-6, 4), x()"],
)
def test_a_selection_without_a_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="private|selected"):
        config.parse(text)
