"""A comparison may be looked at after every period: it errs no more often than stated, and sees what is there."""

import numpy as np
import pytest

from services.publisher.arms.comparison import LEAST_UNITS, Comparison, Unit


def units(rng: np.random.Generator, n: int, rates: dict[str, float], chance: float) -> list[Unit]:
    """Shoppers of one period: some come often, some click often, and chance says whose they are."""
    found = []
    for fond in rng.gamma(2.0, 0.5, n):
        arm = "new" if rng.random() < chance else "old"
        shown = 1 + int(rng.poisson(3))
        found.append(Unit(arm, frozenset({"all"}), shown, float(rng.binomial(shown, min(0.9, rates[arm] * fond)))))
    return found


def judged(seed: int, rates: dict[str, float], chance: float = 0.2, periods: int = 60) -> str:
    """What is found first: better, worse, or nothing."""
    rng = np.random.default_rng(seed)
    comparison = Comparison("new", "old", chance)
    reward = shown = 0.0
    for _ in range(periods):
        found = units(rng, 200, rates, chance)
        comparison.add(found, reward / shown if shown else 0.0)
        reward, shown = reward + sum(u.reward for u in found), shown + sum(u.impressions for u in found)
        if comparison.enough:
            low, high = comparison.bounds(0.05)
            if low > 0:
                return "better"
            if high < 0:
                return "worse"
    return "nothing"


def test_an_equal_arm_is_called_better_or_worse_no_more_often_than_stated() -> None:
    found = [judged(seed, {"new": 0.1, "old": 0.1}) for seed in range(60)]
    assert found.count("better") <= 5  # 0.05 of 60 is 3; more than 5 has a chance below 1 in 12 even at the bound
    assert found.count("worse") <= 5


@pytest.mark.parametrize(("rate", "answer"), [(0.13, "better"), (0.07, "worse")])
def test_a_difference_is_found_whichever_way_it_goes(rate: float, answer: str) -> None:
    assert [judged(seed, {"new": rate, "old": 0.1}) for seed in range(12)] == [answer] * 12


def test_the_lift_is_that_of_the_reward_per_impression() -> None:
    comparison, rng = Comparison("new", "old", 0.5), np.random.default_rng(1)
    for _ in range(100):
        comparison.add(units(rng, 400, {"new": 0.12, "old": 0.1}, 0.5), 0.11)
    figures = comparison.figures(0.05)
    assert figures["lift"] == pytest.approx(figures["reward"] - figures["reward_incumbent"], abs=0.002)
    assert figures["lift_low"] < 0.02 < figures["lift_high"]


def test_shoppers_who_are_lost_on_the_way_of_one_arm_are_noticed() -> None:
    rng = np.random.default_rng(1)
    whole, lossy = Comparison("new", "old", 0.5), Comparison("new", "old", 0.5)
    for _ in range(20):
        found = units(rng, 200, {"new": 0.1, "old": 0.1}, 0.5)
        whole.add(found, 0.1)
        lossy.add([u for u in found if u.arm == "old" or rng.random() < 0.7], 0.1)
    assert not whole.unbalanced()
    assert lossy.unbalanced()


def test_a_segment_that_is_harmed_is_named_though_the_whole_gains() -> None:
    rng, comparison = np.random.default_rng(1), Comparison("new", "old", 0.5)
    for _ in range(100):
        many = units(rng, 300, {"new": 0.2, "old": 0.1}, 0.5)
        few = [Unit(u.arm, frozenset({"phone"}), u.impressions, u.reward) for u in units(
            rng, 50, {"new": 0.05, "old": 0.1}, 0.5)]  # fmt: skip
        comparison.add([*many, *few], 0.1)
    assert comparison.bounds(0.05)[0] > 0
    assert comparison.harmed() == ["phone"]


def test_too_few_units_decide_nothing_and_a_restart_changes_nothing() -> None:
    rng, comparison = np.random.default_rng(1), Comparison("new", "old", 0.5)
    comparison.add(units(rng, LEAST_UNITS, {"new": 0.9, "old": 0.0}, 0.5), 0.0)
    assert not comparison.enough
    again = Comparison.of_json(comparison.to_json())
    for one in (comparison, again):
        one.add(units(np.random.default_rng(2), 500, {"new": 0.3, "old": 0.1}, 0.5), 0.1)
    assert again.figures(0.05) == comparison.figures(0.05)
    assert again.enough
