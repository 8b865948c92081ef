"""The order of an answer."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway import rerank
from services.gateway.impressions import to_message
from services.gateway.ranker import Policy
from services.gateway.releases import load_release
from services.gateway.rerank import Boosts
from tests.gateway.shop import NOW, Shop, budget, plan, spec_of
from tests.gateway.small_ranker import write_release
from tests.gateway.test_rank import call as rank_call
from tests.gateway.test_recommend import call


def test_exploration_probabilities_are_those_of_the_policy() -> None:
    """Over many answers, 1 / propensity weights of what is shown at a place sum to the number of items that can be."""
    order, total, rounds = np.arange(10), 0.0, 6000
    for seed in range(rounds):
        shown = rerank.explore(order, 4, 0.2, seed)
        assert shown.propensity is not None
        total += 1 / shown.propensity[0]
    assert total / rounds == pytest.approx(1 + 6, rel=0.1)


def test_exploration_never_shows_an_item_twice_and_stops_when_nothing_is_left() -> None:
    for seed in range(200):
        shown = rerank.explore(np.arange(5), 4, 0.9, seed)
        assert len(set(shown.order.tolist())) == 4
        assert shown.propensity is not None
        assert shown.explored is not None
        assert (shown.propensity > 0).all()
        assert shown.explored.sum() <= 1


def test_what_is_explored_by_weight_is_drawn_as_often_as_it_says() -> None:
    order, weights, drawn, said = np.arange(8)[::-1].copy(), np.linspace(0.2, 2, 8, dtype=np.float32), np.zeros(8), 0.0
    for seed in range(12_000):
        shown = rerank.explore(order, 3, 0.4, seed, weights)
        assert shown.propensity is not None
        assert shown.explored is not None
        assert shown.drawable is not None
        if shown.explored[0]:
            drawn[shown.order[0]] += 1
            assert shown.propensity[0] == pytest.approx(shown.drawable[shown.order[0]])
            said += 1 / shown.propensity[0]
    np.testing.assert_allclose(drawn / 12_000, shown.drawable, atol=0.012)
    assert shown.drawable.sum() == pytest.approx(0.4)
    assert not drawn[order[:3]].any()
    assert said / 12_000 == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("uncertain", [False, True])
async def test_uncertain_clicks_are_explored_rather_and_the_log_has_the_chance(tmp_path: Path, uncertain: bool) -> None:
    shop = Shop(tmp_path, policy=Policy(explore=0.3, explore_uncertain=uncertain))
    await shop.ranker.recommend(call(size=2), budget())
    message = to_message(shop.served[0])
    left = {item.score: item.propensity for item in message.items if not item.shown and item.propensity}
    assert len(left) > 2
    assert (len({round(chance, 6) for chance in left.values()}) > 1) == uncertain
    assert sum(left.values()) < 0.3


def test_what_is_sampled_does_not_depend_on_what_was_explored() -> None:
    """Of answers that explore their first place, every candidate left over is as likely in the sample."""
    order, often, answers = np.arange(14), np.zeros(14), 0
    for seed in range(6000):
        shown = rerank.explore(order, 4, 0.2, seed)
        if shown.explored is not None and shown.explored.tolist() == [True, False, False, False]:
            answers += 1
            often[rerank.unshown(order, shown.order, 3, seed)] += 1
    # Ten are left over: the displaced first one is always, each of the other ten in nine answers of ten.
    assert often[0] / answers == pytest.approx(0.3, abs=0.06)
    np.testing.assert_allclose(often[4:] / answers, 0.3 * 0.9, atol=0.06)
    assert not often[1:4].any()


def test_a_shuffled_answer_knows_how_likely_each_place_was() -> None:
    order, share, total, rounds = np.arange(6), 0.3, np.zeros(6), 6000
    for seed in range(rounds):
        shown = rerank.shuffled(order, share, seed)
        assert sorted(shown.order.tolist()) == order.tolist()
        assert shown.propensity is not None
        total[shown.order[0]] += 1 / shown.propensity[0]
    np.testing.assert_allclose(total / rounds, np.ones(6), atol=0.25)


async def test_rank_explores_only_when_asked_to(tmp_path: Path) -> None:
    shop = Shop(tmp_path, policy=Policy(explore_rank=0.5))
    for _ in range(30):
        await shop.ranker.rank(rank_call("i1", "i2", "i3", "i4"), budget())
    messages = [to_message(served) for served in shop.served]
    explored = [message for message in messages if message.items[0].explored]
    assert 5 < len(explored) < 25
    assert all(item.propensity > 0 for message in messages for item in message.items)


async def test_boosts_move_new_items_and_categories_and_show_in_the_logged_score(tmp_path: Path) -> None:
    boosts = Boosts(new=5.0, new_days=3.5, categories={"hats": 0.01})
    shop = Shop(tmp_path, policy=Policy(explore=0.0, category_cap=0, boosts=boosts))
    answer = await shop.ranker.recommend(call(size=30), budget())
    assert "i29" in answer.ids[-12:]  # a hat
    assert answer.ids.index("i3") < answer.ids.index("i13")  # new, though cheaper
    message = to_message(shop.served[0])
    assert [item.score for item in message.items if item.shown] == answer.scores.tolist()
    assert list(answer.scores) == sorted(answer.scores, reverse=True)


def test_an_objective_of_the_shop_replaces_the_releases(tmp_path: Path) -> None:
    write_release(tmp_path, "r1", spec_of(plan()), NOW)
    assert load_release(tmp_path, "r1").weights.tolist() == [1, 0, 2]
    assert load_release(tmp_path, "r1", {"cart": 3.0}).weights.tolist() == [0, 3, 0]
    assert load_release(tmp_path, "r1", {"unknown": 3.0}).weights.tolist() == [1, 0, 0]


@settings(max_examples=100)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 6))
def test_varying_keeps_all_and_caps_each_category_while_others_are_left(
    codes: list[int], most: int, window: int
) -> None:
    order = rerank.vary(np.arange(len(codes)), np.array(codes), most, window)
    assert sorted(order.tolist()) == list(range(len(codes)))
    for at, place in enumerate(order.tolist()):
        near = [codes[p] for p in order.tolist()[max(0, at - window + 1) : at]]
        if codes[place] >= 0 and near.count(codes[place]) >= most:
            later = order.tolist()[at:]
            assert all(codes[p] >= 0 and near.count(codes[p]) >= most for p in later)


def test_equal_scores_keep_the_callers_order() -> None:
    assert rerank.by_score(np.zeros(4, np.float32), np.array([0, 2, 0, 1])).tolist() == [3, 1, 0, 2]
    assert math.isclose(float(rerank.objective(np.array([[0.5, 0.25]], np.float32), np.array([1, 2]))[0]), 1.0)
