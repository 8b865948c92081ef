"""Figures of judged lists: against independent computations, and what intervals hold."""

import numpy as np
import pytest
from sklearn import metrics

from services.trainer.evaluation import figures
from services.trainer.evaluation.figures import JudgedList


def lists(count: int, seed: int = 0, skill: float = 1.0) -> list[JudgedList]:
    """Lists of eight with one click or two; higher skill, better scores."""
    chance = np.random.default_rng(seed)
    out = []
    for k in range(count):
        clicks = np.zeros(8, np.bool_)
        clicks[chance.choice(8, chance.integers(1, 3), replace=False)] = True
        logits = chance.normal(-2, 1, 8) + skill * clicks
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
        out.append(JudgedList(f"{k}", f"u{k % 5}", k, scores, clicks, k % 2 == 0, clicks & (k % 3 == 0)))
    return out


def test_figures_are_those_of_scikit_learn() -> None:
    judged = lists(60)
    labels, flat = figures.flattened(judged)
    assert figures.pooled_auc(judged).value == pytest.approx(metrics.roc_auc_score(labels, flat))
    found = figures.table(judged)
    assert found["group_auc"][0] == pytest.approx(metrics.roc_auc_score(judged[0].clicks, judged[0].scores))
    assert found["log_loss"][1] == pytest.approx(metrics.log_loss(judged[1].clicks, judged[1].scores), rel=1e-5)
    expected = metrics.ndcg_score(judged[2].clicks[None].astype(int), judged[2].scores[None], k=10)
    assert found["ndcg_at_10"][2] == pytest.approx(expected)


def test_the_rank_of_the_first_click_counts_ties_in_the_order_shown() -> None:
    judged = JudgedList(
        "", "", 0, np.array([0.5, 0.5, 0.9], np.float32), np.array([False, True, False]), False, np.zeros(3, np.bool_)
    )
    assert figures.first_click_rank(judged) == pytest.approx(1 / 3)
    assert figures.recall(judged, 2) == 0
    assert figures.recall(judged, 3) == 1


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(1.0, 1.0, 80)
        found = figures.mean(values, seed)
        held += found.lower <= 1.0 <= found.upper
    assert 88 <= held <= 100


def test_nothing_to_judge_is_no_number() -> None:
    assert np.isnan(figures.mean(np.array([np.nan])).value)
    assert np.isnan(figures.pooled_auc([]).value)
    assert figures.thresholded([]) == {}


def test_the_threshold_is_chosen_on_the_first_half_alone() -> None:
    first, second = lists(100, 1, skill=3.0), lists(100, 2, skill=3.0)
    found = figures.thresholded([*first, *second])
    swapped = [JudgedList(*[*vars(j).values()][:3], 1 - j.scores, *[*vars(j).values()][4:]) for j in second]
    assert figures.thresholded([*first, *swapped])["threshold"] == found["threshold"]
    assert found["f1"] > 0.5 > figures.thresholded([*first, *swapped])["f1"]
    assert found["precision"] == pytest.approx(
        metrics.precision_score(*(lambda y, s: (y, s >= found["threshold"]))(*figures.flattened(second)))
    )
