"""Attacks on planted shoppers fail at the stated epsilon, and succeed where there is no noise to stop them."""

from pathlib import Path

import numpy as np
import pytest

from services.trainer.learner import Learner
from tests.trainer.canaries import Canaries, attacked, audited
from tests.trainer.privately import private, strategy
from tests.trainer.strategies.shop import learner

COUNT, TURNS, OTHERS = 100, 6, 5
EPSILON_1 = "private(1, 1e-5, 9.93, 1, 4, 55)"
"""Six rounds of it cost epsilon = 1."""
EPSILON_350 = "private(1000, 1e-5, 0.11, 1, 4, 55)"

pytestmark = pytest.mark.long


def under(folder: Path, privacy: str, canaries: Canaries) -> Learner:
    """A private learner to be attacked, by plain gradient descent; every canary's item is public."""
    listed = folder / "canaries.txt"
    listed.write_text("\n".join(canaries.items()))
    plain = {"optimiser": "sgd", "warmup_impressions": 0, "clip_norm": 0.0}
    return private(folder / str(canaries.seed), privacy, privacy_items=listed, **plain)


def all_of(privacy: str, folder: Path, seeds: int) -> float:
    """Mean AUC of the attack by gradients over several logs."""
    found = []
    for seed in range(seeds):
        (folder / str(seed)).mkdir()
        canaries = Canaries(COUNT, seed)
        found.append(audited(under(folder, privacy, canaries), canaries, TURNS, OTHERS))
    return float(np.mean(found))


def test_the_attack_by_gradients_fails_at_epsilon_1(tmp_path: Path) -> None:
    assert all_of(EPSILON_1, tmp_path, seeds=4) <= 0.55


def test_the_attack_by_gradients_succeeds_with_hardly_any_noise(tmp_path: Path) -> None:
    assert all_of(EPSILON_350, tmp_path, seeds=2) > 0.75


def test_the_attack_by_the_loss_succeeds_without_privacy_and_fails_with_it(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"": [], EPSILON_1: []}
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        canaries = Canaries(COUNT, seed)
        found[""].append(attacked(learner(), canaries, TURNS, OTHERS))
        made = under(tmp_path, EPSILON_1, canaries)
        found[EPSILON_1].append(attacked(made, canaries, TURNS, OTHERS))
        assert 0.9 < strategy(made).epsilon <= 1
    assert np.mean(found[""]) > 0.9
    assert np.mean(found[EPSILON_1]) <= 0.55
