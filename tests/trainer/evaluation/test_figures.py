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
    assert figures.thresholded([])[1] == {}
    assert figures.of_ratings([]) == {}


def test_the_threshold_is_chosen_on_the_first_half_alone() -> None:
    first, second = lists(100, 1, skill=3.0), lists(100, 2, skill=3.0)
    threshold, found = figures.thresholded([*first, *second])
    swapped = [JudgedList(*[*vars(j).values()][:3], 1 - j.scores, *[*vars(j).values()][4:]) for j in second]
    same, worse = figures.thresholded([*first, *swapped])
    assert same == threshold
    assert found["f1"].value > 0.5 > worse["f1"].value
    labels, flat = figures.flattened(second)
    for name, theirs in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
        ("accuracy", metrics.accuracy_score),
    ):
        assert found[name].value == pytest.approx(theirs(labels, flat >= threshold))
        assert found[name].lower < found[name].value < found[name].upper
    assert found["rmse"].value == pytest.approx(metrics.brier_score_loss(labels, flat) ** 0.5)
    assert found["calibration"].value == pytest.approx(flat.sum() / labels.sum(), rel=1e-5)


def test_other_first_places_can_be_asked_for() -> None:
    judged = lists(20)
    found = figures.table(judged, tops=(3, 5))
    assert found.keys() >= {"ndcg_at_3", "recall_at_3", "ndcg_at_5", "ndcg_at_10"}
    expected = metrics.ndcg_score(judged[0].clicks[None].astype(int), judged[0].scores[None], k=3)
    assert found["ndcg_at_3"][0] == pytest.approx(expected)


def test_errors_of_ratings_are_those_of_scikit_learn() -> None:
    chance = np.random.default_rng(1)
    given = chance.integers(1, 6, 200).astype(float)
    expected = given + chance.normal(0, 1, 200)
    found = figures.of_ratings(list(zip(expected.tolist(), given.tolist(), strict=True)))
    assert found["rating_rmse"].value == pytest.approx(metrics.root_mean_squared_error(given, expected))
    assert found["rating_mae"].value == pytest.approx(metrics.mean_absolute_error(given, expected))
    assert found["rating_rmse"].lower < found["rating_rmse"].value < found["rating_rmse"].upper
