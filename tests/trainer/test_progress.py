"""Scores wait for labels; figures are those of scikit-learn."""

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Impression, ImpressionItem
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from services.common.records import CLOSED, INITIAL
from services.trainer import scores
from services.trainer.examples import Example
from services.trainer.progress import Progress, RunningLoss


def example(kind: int, name: str, labels: list[int], shown: list[bool] | None = None, weight: float = 1.0) -> Example:
    items = [ImpressionItem(shown=s) for s in shown or [True] * len(labels)]
    weights = np.full(len(labels), weight if kind == INITIAL else 0.0, np.float32)
    bits = np.array(labels, np.uint8)
    return Example(kind, 0, 0, 0, name, "u", list(range(len(labels))), bits, weights, Impression(items=items))


def judge(progress: Progress, name: str, labels: list[int], ours: list[float], theirs: list[float] | None) -> None:
    champion = None if theirs is None else np.array([theirs], np.float32)
    progress.scored([example(INITIAL, name, labels)], np.array([ours], np.float32), champion)
    progress.closed(example(CLOSED, name, labels))


def test_figures_are_those_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    labels = chance.random(500) < 0.3
    predicted = np.round(chance.random(500), 2).astype(np.float32).clip(0.01, 0.99)
    assert scores.auc(labels, predicted) == pytest.approx(roc_auc_score(labels, predicted))
    assert scores.log_loss(labels, predicted) == pytest.approx(log_loss(labels, predicted), rel=1e-5)
    distinct = chance.permutation(500).astype(np.float32)
    expected = ndcg_score([labels[:40].astype(int)], [distinct[:40]], k=10)
    assert scores.ndcg(labels[:40], distinct[:40]) == pytest.approx(expected)


def test_learner_and_champion_are_compared_on_the_same_impressions() -> None:
    progress = Progress()
    judge(progress, "before", [1, 0], [0.1, 0.9], None)
    judge(progress, "a", [1, 0], [0.9, 0.1], [0.1, 0.9])
    judge(progress, "b", [0, 3], [0.1, 0.9], [0.2, 0.1])
    figures = progress.metrics()
    assert figures["impressions"] == 2
    assert figures["auc"] == 1
    assert figures["champion_auc"] == 0.0
    assert figures["ctr"] == figures["champion_ctr"] == 0.5


def test_without_a_champion_the_learner_stands_alone() -> None:
    progress = Progress()
    judge(progress, "a", [1, 0], [0.9, 0.1], None)
    assert progress.metrics()["auc"] == 1
    assert not any(name.startswith("champion_") for name in progress.metrics())
    assert Progress().metrics() == {"impressions": 0.0}


def test_a_threshold_is_chosen_on_the_older_half_and_judged_on_the_newer() -> None:
    progress = Progress()
    judge(progress, "a", [1, 0, 0], [0.6, 0.5, 0.1], None)
    assert "threshold" not in progress.metrics()
    judge(progress, "b", [1, 0, 1], [0.7, 0.9, 0.2], None)
    figures = progress.metrics()
    assert figures["threshold"] == pytest.approx(0.6)
    assert (figures["precision"], figures["recall"], figures["f1"]) == (0.5, 0.5, 0.5)


def test_the_first_scores_of_an_impression_count() -> None:
    progress = Progress()
    first = example(INITIAL, "a", [1, 0])
    progress.scored([first], np.array([[0.9, 0.1]], np.float32), None)
    progress.scored([first], np.array([[0.1, 0.9]], np.float32), None)
    progress.closed(example(CLOSED, "a", [1, 0]))
    progress.closed(example(CLOSED, "a", [0, 1]))
    assert progress.metrics() == pytest.approx(progress.metrics() | {"auc": 1.0, "impressions": 1.0})


def test_only_shown_items_are_judged() -> None:
    progress, shown = Progress(), [True, False, True]
    progress.scored([example(INITIAL, "a", [0, 0, 0], shown)], np.array([[0.9, 0.99, 0.1]], np.float32), None)
    progress.closed(example(CLOSED, "a", [1, 0, 0], shown))
    assert progress.metrics()["ctr"] == 0.5
    assert progress.metrics()["auc"] == 1


def test_memory_is_bounded() -> None:
    progress = Progress(window=3, waiting=5)
    for k in range(20):
        progress.scored([example(INITIAL, str(k), [0, 1])], np.array([[0.5, 0.5]], np.float32), None)
    assert progress.dropped == 15
    for k in range(20):
        progress.closed(example(CLOSED, str(k), [0, 1]))
    assert progress.metrics()["impressions"] == 3


def test_the_running_loss_of_candidates_and_their_flips_is_the_log_loss() -> None:
    running = RunningLoss()
    assert np.isnan(running.take()[0])
    p = np.array([[0.2, 0.7, 0.4]], np.float32)
    running.add(p, np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32))
    running.add(p[:, 1:2], np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
    loss, rows = running.take()
    assert rows == 3
    assert loss == pytest.approx(log_loss([0, 1, 0], p[0]), rel=1e-5)
    assert running.take()[1] == 0


def test_a_flip_alone_waits_for_candidates_to_be_counted_with() -> None:
    running = RunningLoss()
    one = np.ones((1, 1), np.float32)
    running.add(one / 2, 0 * one, one)
    assert running.take()[1] == 0
    running.add(one / 2, one, 0 * one)
    assert running.take() == (pytest.approx(np.log(2)), 1)


def test_the_surplus_of_right_scores_is_zero_in_the_mean() -> None:
    chance, progress = np.random.default_rng(0), Progress()
    for k in range(2_000):
        p = float(chance.uniform(0.05, 0.5))
        clicked = [int(chance.random() < p) for _ in range(4)]
        progress.scored([example(INITIAL, f"{k}", [0] * 4)], np.array([[p] * 4], np.float32), None)
        progress.closed(example(CLOSED, f"{k}", clicked))
    losses, surpluses = progress.take_losses()
    assert len(losses) == len(surpluses) == 2_000
    assert abs(np.mean(surpluses)) < 3 * np.std(surpluses) / np.sqrt(2_000)
    assert progress.take_losses() == ([], [])
