"""The pieces of private learning: the bill, the bound, the noise, the examples of a round."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from services.common.errors import CorruptState, InvalidInput
from services.common.records import FLIP
from services.trainer.privacy import accountant, config
from services.trainer.privacy.catalogue import read_items
from services.trainer.privacy.ledger import NAME, Entry, Ledger
from services.trainer.privacy.mechanism import Contribution, RoundSum, noise_source
from services.trainer.privacy.rounds import Round
from tests.trainer.arm import settings
from tests.trainer.privately import SECRET, examples
from tests.trainer.world import Shop

# The accountant


@pytest.mark.parametrize(("noise", "rounds", "delta"), [(1.0, 1, 1e-5), (4.0, 37, 1e-6), (20.0, 1000, 1e-8)])
def test_epsilon_is_the_closed_form_of_composed_gaussians(noise: float, rounds: int, delta: float) -> None:
    def bound(order: float) -> float:
        rdp = rounds * order / (2 * noise**2)
        return rdp - (math.log(delta) + math.log(order)) / (order - 1) + math.log((order - 1) / order)

    found = accountant.epsilon({noise: rounds}, delta)
    assert found == pytest.approx(min(map(bound, accountant.ORDERS)), rel=1e-6)
    best = minimize_scalar(lambda x: bound(1 + math.exp(x)), bounds=(-6, 8), method="bounded", options={"xatol": 1e-10})
    assert best.fun - 1e-9 <= found <= best.fun * (1 + 1e-4)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 37), (20.0, 1000)])
def test_epsilon_is_never_below_the_exact_one(noise: float, rounds: int) -> None:
    mu, delta = math.sqrt(rounds) / noise, 1e-6  # Balle and Wang (2018), theorem 8

    def chance(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    exact = brentq(chance, 0, 100)
    assert exact < accountant.epsilon({noise: rounds}, delta) < 1.3 * exact


def test_rounds_with_different_noise_add_up() -> None:
    both = accountant.epsilon({2.0: 3, 5.0: 7}, 1e-6)
    same = math.sqrt(1 / (3 / 2.0**2 + 7 / 5.0**2))
    assert both == pytest.approx(accountant.epsilon({same: 1}, 1e-6), rel=1e-9)
    assert accountant.epsilon({}, 1e-6) == 0


def test_a_budget_is_enough_for_so_many_rounds_and_no_more() -> None:
    plan = config.PrivacyConfig(3, 1e-6, 8)
    rounds = accountant.rounds_within(plan)
    assert accountant.epsilon({8.0: rounds}, 1e-6) <= 3 < accountant.epsilon({8.0: rounds + 1}, 1e-6)


# Clip, sum, noise


def test_dense_weights_and_rows_are_clipped_together() -> None:
    long = Contribution(np.full(9, 3.0), np.array([0, 2]), np.full((2, 4), -2.0))
    short = long.clipped(0.5)
    assert short.length == pytest.approx(0.5)
    np.testing.assert_allclose(short.rows / long.rows, short.dense[0] / long.dense[0])
    assert np.array_equal(long.clipped(1e6).dense, long.dense)


def test_a_gradient_that_is_not_finite_adds_nothing() -> None:
    broken = Contribution(np.array([1.0, np.nan]), np.array([1]), np.ones((1, 4))).clipped(1)
    assert broken.length == 0
    assert not len(broken.slots)


def test_noise_has_the_deviation_sigma_times_clip_everywhere() -> None:
    total = RoundSum(40_000, np.arange(10_000), 4)
    total.add_noise(noise_source(SECRET, 1, ""), 2.0 * 0.7)
    for part in (total.dense, total.rows[:, 0], total.rows[:, 3]):
        assert part.std() == pytest.approx(1.4, rel=0.03)
        assert abs(part.mean()) < 5 * 1.4 / math.sqrt(len(part))
    assert (total.rows != 0).all()


def test_the_noise_of_another_round_sum_or_secret_is_independent() -> None:
    first = noise_source(SECRET, 1, "a").standard_normal(20_000)
    assert np.array_equal(first, noise_source(SECRET, 1, "a").standard_normal(20_000))
    for other in (noise_source(SECRET, 2, "a"), noise_source(SECRET, 1, "b"), noise_source(SECRET[::-1], 1, "a")):
        assert abs(np.corrcoef(first, other.standard_normal(20_000))[0, 1]) < 0.03


def test_the_digest_tells_sums_items_secrets_and_noise_apart() -> None:
    def of(dense: float = 0.0, slots: int = 2, secret: bytes = SECRET, deviation: float = 1.0) -> str:
        total = RoundSum(3, np.arange(slots), 4)
        total.dense += dense
        return total.digest(secret, deviation)

    assert of() == of()
    assert len({of(), of(dense=1e-12), of(slots=3), of(secret=SECRET[::-1]), of(deviation=2.0)}) == 5


def test_a_row_that_is_not_public_cannot_be_summed() -> None:
    with pytest.raises(IndexError):
        RoundSum(1, np.array([1, 3]), 4).add(Contribution(np.zeros(1), np.array([2]), np.ones((1, 4))))


# The examples of a round


def test_a_shopper_adds_no_more_than_the_cap_and_actions_go_with_their_impression() -> None:
    found = Round(cap=2)
    found.add(examples(Shop(seed=1, users=1), 6))
    ((_, (appeared, flipped)),) = found.shoppers()
    assert len(appeared) == 2
    assert {e.impression_id for e in flipped} <= {e.impression_id for e in appeared}
    late = [e for e in examples(Shop(seed=1, users=1), 6) if e.kind == FLIP and e.impression_id[-1] == "6"]
    before = found.left_out
    other = Round(cap=2)
    other.load(found.state())
    other.clear()
    other.add(late)
    assert (len(late) > 0, len(other), other.left_out) == (True, 0, before + len(late))


def test_examples_without_a_shopper_are_left_out() -> None:
    found = Round(cap=2)
    found.add([replace(e, user="") for e in examples(Shop(), 3)])
    assert len(found) == 0
    assert found.left_out >= 3


def test_a_forgotten_shopper_leaves_the_round() -> None:
    found, shown = Round(cap=9), examples(Shop(users=2), 8)
    found.add(shown)
    newest = max(e.event_time_us for e in shown if e.user == "user-0")
    found.forget("user-0", newest)
    assert {e.event_time_us for e in found._kept["user-0"]} == {newest}
    found.forget("user-0", newest + 1)
    assert [user for user, _ in found.shoppers()] == ["user-1"]


# What is spent stays spent


def test_a_torn_last_line_was_not_spent_and_a_damaged_one_before_is_refused(tmp_path: Path) -> None:
    book = Ledger(tmp_path / NAME)
    for number in (1, 2, 3):
        book.write(Entry(number, f"{number}", 2.0))
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[:-3])
    torn = Ledger(tmp_path / NAME)
    torn.write(Entry(3, "other", 2.0))
    again = Ledger(tmp_path / NAME)
    assert (again.spent, again.newest, again.knows(3, "other"), again.knows(3, "3")) == ({2.0: 3}, 3, True, False)
    (tmp_path / NAME).write_bytes(data[:5] + b"x" + data[6:])
    with pytest.raises(CorruptState, match="line 1"):
        Ledger(tmp_path / NAME)


def test_a_lost_file_is_carried_over_from_the_checkpoint_once(tmp_path: Path) -> None:
    for _ in range(2):
        book = Ledger(tmp_path / NAME)
        book.at_least(Counter({2.0: 5}))
        assert book.spent == {2.0: 5}
    book.write(Entry(6, "x", 2.0))
    assert Ledger(tmp_path / NAME).spent == {2.0: 6}


# Settings


@pytest.mark.parametrize("text", ["private(8)", "private(8, 1, 4)", "private(8, 1e-6, 4), private(8, 1e-6, 4)", "dp"])
def test_a_line_that_says_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="private|dp"):
        settings(privacy=text)


def test_items_are_read_once_each_and_a_file_without_any_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items"
    path.write_text("b\n\n a \nb\n")
    assert read_items(path) == ["b", "a"]
    path.write_text("\n")
    with pytest.raises(InvalidInput, match="names no item"):
        read_items(path)
