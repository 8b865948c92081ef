"""Thresholds of segments: which is the best, how small segments follow all, and where they are judged."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from services.trainer import scores
from services.trainer.evaluation.figures import JudgedList, flattened
from services.trainer.evaluation.thresholds import Segments, by_segment, shrunken
from services.trainer.scores import Rule


def lists(count: int, seed: int = 0, shoes: float = -1.0, hats: float = -4.0) -> list[JudgedList]:
    """Lists of four shoes and four hats whose scores are true probabilities around these log-odds."""
    chance, out = np.random.default_rng(seed), []
    for k in range(count):
        logits = np.concatenate([chance.normal(shoes, 1.2, 4), chance.normal(hats, 1.2, 4)])
        found = (1 / (1 + np.exp(-logits))).astype(np.float32)
        clicks = chance.random(8) < found
        kinds = ("shoes",) * 4 + ("hats",) * 4
        none = np.zeros(8, np.bool_)
        out.append(JudgedList(f"{k}", "u", k, found, clicks, k % 2 == 0, none, kinds, "home", "phone"))
    return out


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_no_score_has_a_higher_f_than_the_threshold(beta: float) -> None:
    labels, found = flattened(lists(60))
    best = scores.best_threshold(labels, found, Rule(beta))
    of = {t: metrics.fbeta_score(labels, found >= t, beta=beta, zero_division=0) for t in np.unique(found)}
    assert of[np.float32(best)] == pytest.approx(max(of.values()))
    assert scores.decided(labels, found, best, beta)["f"] == pytest.approx(max(of.values()))


def test_a_precision_floor_is_met_with_as_much_recall_as_there_is() -> None:
    labels, found = flattened(lists(200))
    best = scores.best_threshold(labels, found, Rule(precision=0.5))
    met = [t for t in np.unique(found) if metrics.precision_score(labels, found >= t) >= 0.5]
    assert best == pytest.approx(min(met))
    assert scores.decided(labels, found, best)["precision"] >= 0.5
    assert scores.best_threshold(labels[~labels | (found < 0.2)], found[~labels | (found < 0.2)], Rule(precision=1)) > 1


def test_equal_scores_say_yes_together() -> None:
    labels = np.array([True, False, False, False])
    equal = np.full(4, 0.5, np.float32)
    assert scores.best_threshold(labels, equal) == 0.5
    assert scores.decided(labels, equal, 0.5)["precision"] == 0.25
    assert np.isnan(scores.best_threshold(np.zeros(4, np.bool_), equal))


def test_each_segment_has_its_own_and_does_better_by_it() -> None:
    found = by_segment(lists(2000), Segments(prior=10))
    segments = found["segments"]
    assert segments["category=hats"]["own"] < found["all"]["threshold"] < 0.5
    hats = segments["category=hats"]
    assert hats["f"] > hats["f_with_all"] + 0.02
    assert set(segments) == {
        *("user=new", "user=known", "item=known", "item=new"),
        *("category=shoes", "category=hats", "placement=home", "device=phone"),
    }
    assert segments["item=new"]["judged"] == 0
    assert segments["item=new"]["threshold"] == found["all"]["threshold"]


def test_few_positives_are_pulled_to_all_and_too_few_follow_it() -> None:
    rule = Segments(least=20, prior=50)
    assert shrunken(0.4, 0.1, 19, rule) == 0.1
    near, far = shrunken(0.4, 0.1, 20, rule), shrunken(0.4, 0.1, 5000, rule)
    assert 0.1 < near < far < 0.4
    assert far == pytest.approx(0.4, abs=0.01)
    odds = [np.log(p / (1 - p)) for p in (0.4, 0.1, near)]
    assert odds[2] == pytest.approx((20 * odds[0] + 50 * odds[1]) / 70, abs=1e-4)
    assert shrunken(float("inf"), 0.1, 500, rule) == 0.1


def test_it_is_chosen_on_the_first_half_and_judged_on_the_second() -> None:
    first, second = lists(400, 1), lists(400, 2)
    honest = by_segment([*first, *second], Segments())
    turned = by_segment([*first, *(replace(j, clicks=~j.clicks) for j in second)], Segments())
    for name, each in honest["segments"].items():
        assert turned["segments"][name]["threshold"] == each["threshold"]
    labels, flat = flattened(second)
    kept = np.array([c == "shoes" for j in second for c in j.categories])
    shoes = honest["segments"]["category=shoes"]
    expected = metrics.precision_score(labels[kept], flat[kept] >= shoes["threshold"])
    assert shoes["precision"] == pytest.approx(expected)
    assert by_segment(lists(1), Segments()) == {}
