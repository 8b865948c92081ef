"""Attacks on planted shoppers fail at the stated epsilon, and succeed where there is no noise to stop them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.trainer.learner import Learner
from tests.trainer.canaries import Canaries, attacked, audited, noticed
from tests.trainer.privately import private, strategy
from tests.trainer.strategies.shop import learner

OTHERS = 5

pytestmark = pytest.mark.long


def under(folder: Path, privacy: str, canaries: Canaries) -> Learner:
    """A private learner to be attacked: plain gradient descent, no rows of shoppers, every canary's item public."""
    listed = folder / "canaries.txt"
    listed.write_text("\n".join(canaries.items()))
    plain = {"optimiser": "sgd", "warmup_impressions": 0, "clip_norm": 0.0, "admission": 200}
    return private(folder / str(canaries.seed), privacy, privacy_items=listed, **plain)


def audit(
    noise: float,
    epsilon: float,
    folder: Path,
    seeds: int,
    selection: str = "",
    attack: Callable[[Learner, Canaries, int, int], float] = audited,
) -> float:
    """Mean AUC of an attack on two rounds of 200 canaries, of 400 who could be in them."""
    found = []
    for seed in range(seeds):
        (folder / str(seed)).mkdir()
        canaries = Canaries(400, seed)
        made = under(folder, f"private({epsilon}, 1e-5, {noise}, 1, 4, {200 + OTHERS}){selection}", canaries)
        found.append(attack(made, canaries, 2, OTHERS))
        assert 0.9 * epsilon < strategy(made).epsilon <= epsilon
    return float(np.mean(found))


def test_the_attack_by_gradients_fails_at_epsilon_1(tmp_path: Path) -> None:
    assert audit(5.73, 1, tmp_path, seeds=3) <= 0.55


@pytest.mark.parametrize("attack", [audited, noticed])
def test_both_attacks_fail_at_epsilon_1_where_rows_are_selected(
    attack: Callable[[Learner, Canaries, int, int], float], tmp_path: Path
) -> None:
    assert audit(8.1, 1, tmp_path, 3, ", selected(8.1, 8)", attack) <= 0.55


def test_the_attack_by_the_rows_succeeds_where_they_are_selected_with_hardly_any_noise(tmp_path: Path) -> None:
    assert audit(0.212, 90, tmp_path, 1, ", selected(0.212, 0.3)", noticed) > 0.7


def test_the_attack_by_gradients_succeeds_with_hardly_any_noise(tmp_path: Path) -> None:
    assert audit(0.15, 90, tmp_path, seeds=1) > 0.65


def test_the_attack_by_the_loss_succeeds_without_privacy_and_fails_at_epsilon_1(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"online": [], "private": []}
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        canaries = Canaries(100, seed)
        found["online"].append(attacked(learner(), canaries, 6, OTHERS))
        made = under(tmp_path, f"private(1, 1e-5, 9.93, 1, 4, {50 + OTHERS})", canaries)
        found["private"].append(attacked(made, canaries, 6, OTHERS))
        assert 0.9 < strategy(made).epsilon <= 1
    assert np.mean(found["online"]) > 0.9
    assert np.mean(found["private"]) <= 0.55
