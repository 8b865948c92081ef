"""Rank: the caller's candidates, put in order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Context, Impression
from freshrank.v1.models_pb2 import Route

from services.common.encode import encode
from services.common.errors import CorruptState, TemporaryError
from services.gateway import ladder
from services.gateway.calls import Caller, RankCall
from services.gateway.candidates import Wanted
from services.gateway.impressions import to_message
from services.gateway.pipeline import Lagging
from services.gateway.releases import Routes, worlds_of
from tests.gateway.shop import NOW, TOKENS, Shop, budget, recent, release

ADA = Caller("ada", "visit", Context(region="DE", device="phone"))


def call(*ids: str, caller: Caller = ADA) -> RankCall:
    wanted = Wanted.of(ids)
    wanted.prior_rank[:] = np.arange(1, 1 + len(ids))
    return RankCall(caller, "rank", wanted, NOW)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_candidates_come_back_in_the_order_of_their_scores(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20", "i5"), budget())
    assert list(answer.ids) == ["i20", "i5", "i1"]
    assert answer.scores.tolist() == sorted(answer.scores.tolist(), reverse=True)
    assert (answer.release, answer.arm, answer.rung) == ("r1", "main", ladder.NONE)
    assert TOKENS.check(answer.token, "ada", NOW) == answer.request_id
    np.testing.assert_allclose(answer.scores, answer.objectives @ np.array([1, 0, 2], np.float32), rtol=1e-6)


async def test_ages_are_those_of_the_values_used(shop: Shop) -> None:
    ages = (await shop.ranker.rank(call("i1", "i2"), budget())).ages
    assert (ages.user_features_ms, ages.item_features_ms, ages.rows_ms, ages.release_ms) == (3000, 1000, 1000, 60_000)


async def test_an_item_the_table_has_not_seen_is_read_from_the_store_and_named(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "stranger"), budget())
    assert list(answer.missing) == ["stranger"]
    assert set(answer.ids) == {"i1", "stranger"}
    assert shop.store.asked[0].missing == ["stranger"]
    (name, arrays) = shop.scorer.calls[0]
    np.testing.assert_array_equal(arrays["row"][0, 1], np.full(4, 0.5, np.float32))
    served = shop.served[0].candidates
    assert (served.pos[1, 0], served.rows.seq[1]) == (77, 5)


async def test_a_price_of_the_request_replaces_the_catalogues(shop: Shop) -> None:
    asked = call("i1", "i20")
    asked.wanted.price[0] = 500
    assert list((await shop.ranker.rank(asked, budget())).ids) == ["i1", "i20"]


async def test_what_the_model_saw_is_what_the_impression_says(shop: Shop) -> None:
    """The trainer makes the same arrays of the impression that the gateway made of the live values."""
    shop.store.lists = {
        "user_stats:recent": recent(("i3", 2, 5), ("i4", 1, 50), ("never", 2, 90)),
        "session_stats:session": recent(("i5", 1, 1), ("i20", 2, 3)),
    }
    await shop.ranker.rank(call("i1", "i20", "i5", "stranger"), budget())
    served = shop.served[0]
    message = Impression.FromString(to_message(served).SerializeToString())
    _, arrays = shop.scorer.calls[0]
    spec = shop.state.world.servings("ada")[0].release.spec
    again = encode([message], spec, RowsOf(served))
    places = served.order
    for name, array in again.items():
        live = arrays[name]
        expected = live[:, places] if name in ("item", "content", "row", "row_mask", "mask") else live
        np.testing.assert_array_equal(array, expected, err_msg=name)


class RowsOf:
    """The rows that were served."""

    def __init__(self, served) -> None:  # type: ignore[no-untyped-def]
        self._served = served

    def items(self, ids):  # type: ignore[no-untyped-def]
        rows, masks = np.zeros((len(ids), 4), np.float32), np.zeros(len(ids), np.float32)
        for at, item in enumerate(ids):
            for known, source in (
                (list(self._served.candidates.wanted.ids), self._served.candidates.rows),
                (list(self._served.served.recent.items), self._served.served.rows),
            ):
                if item in known:
                    rows[at], masks[at] = source.values[known.index(item)], source.mask[known.index(item)]
        return rows, masks

    def users(self, ids):  # type: ignore[no-untyped-def]
        return np.array([self._served.shopper.row]), np.ones(1, np.float32)


async def test_an_impression_carries_ids_positions_and_sequences(shop: Shop) -> None:
    await shop.ranker.rank(call("i1", "i20"), budget())
    message = to_message(shop.served[0])
    assert [(i.item_id, i.position, i.row_seq, i.category, list(i.pos), i.shown) for i in message.items] == [
        ("i20", 0, 21, "hats", [120, 4], True),
        ("i1", 1, 2, "shirts", [101, 6], True),
    ]
    assert (list(message.user_views), list(message.user_pos)) == (["user_stats", "session_stats"], [11, 12])
    assert list(message.item_views) == ["item_stats", "pair_stats"]
    assert (message.release, message.arm, message.slot, message.epoch) == ("r1", "main", "a", 1)
    assert (message.placement, message.user_row_seq, message.closed_loop) == ("rank", 9, False)
    assert message.feature_service == shop.plan.ranking.feature_service
    assert message.items[0].propensity == 0


async def test_a_store_that_fails_means_no_user_features_and_a_second_failure_the_last_ones_seen(shop: Shop) -> None:
    shop.store.failure = TemporaryError("down")
    first = await shop.ranker.rank(call("i1", "i2"), budget())
    assert first.rung == ladder.NO_USER_FEATURES
    assert np.isnan(shop.scorer.calls[0][1]["user"]).all()
    shop.store.failure = None
    await shop.ranker.rank(call("i1", "i2"), budget())
    shop.store.failure = CorruptState("a value of the wrong type")
    later = await shop.ranker.rank(call("i1", "i2"), budget())
    assert later.rung == ladder.STALE_FEATURES
    assert not np.isnan(shop.scorer.calls[2][1]["user"]).any()


async def test_what_is_known_to_lag_is_said(shop: Shop) -> None:
    shop.state.lagging = Lagging(store=True)
    assert (await shop.ranker.rank(call("i1"), budget())).rung == ladder.STALE_FEATURES


async def test_the_previous_release_answers_for_a_champion_that_does_not(tmp_path: Path) -> None:
    shop = Shop(tmp_path, champion="r2", previous="r1")
    shop.scorer.failing = {"r2"}
    answer = await shop.ranker.rank(call("i1", "i20"), budget())
    assert (answer.release, answer.rung, list(answer.ids)) == ("r1", ladder.LAST_RELEASE, ["i20", "i1"])
    assert not shop.scorer.calls[1][1]["user_row_mask"].any()


async def test_without_any_answer_of_a_model_the_callers_order_stays(shop: Shop) -> None:
    shop.scorer.failing = {"r1"}
    answer = await shop.ranker.rank(call("i1", "i20", "i5"), budget())
    assert (list(answer.ids), answer.rung, answer.release) == (["i1", "i20", "i5"], ladder.POPULAR, "")
    assert to_message(shop.served[0]).items[0].features
    assert answer.objectives.size == 0


async def test_without_a_callers_order_popular_items_come_first(shop: Shop) -> None:
    shop.scorer.failing = {"r1"}
    asked = call("i1", "i20", "i5")
    asked.wanted.prior_rank[:] = 0
    assert list((await shop.ranker.rank(asked, budget())).ids) == ["i20", "i5", "i1"]


async def test_before_the_first_release_nothing_is_degraded_and_everything_is_logged(tmp_path: Path) -> None:
    shop = Shop(tmp_path, champion="")
    shop.store.lists = {"user_stats:recent": recent(("i3", 2, 5))}
    answer = await shop.ranker.rank(call("i1", "i20"), budget())
    assert (list(answer.ids), answer.rung, answer.release) == (["i1", "i20"], ladder.NONE, "")
    message = to_message(shop.served[0])
    assert len(message.items[0].features) == len(message.item_feature_ids) == len(shop.plan.ranking.item)
    assert [entry.item_id for entry in message.history] == ["i3"]
    assert not shop.scorer.calls


async def test_a_spent_deadline_still_gets_an_answer(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20"), budget(0.0))
    assert (list(answer.ids), answer.rung) == (["i1", "i20"], ladder.POPULAR)
    assert not shop.scorer.calls


async def test_the_watch_keeps_a_sticky_share_on_the_previous_release(tmp_path: Path) -> None:
    shop = Shop(tmp_path, champion="r2", previous="r1")
    shop.state.worlds = shop.world("r2", "r1", watch_share=0.5)
    users = [Caller(f"u{n}") for n in range(40)]
    first = [(await shop.ranker.rank(call("i1", caller=user), budget())).release for user in users]
    again = [(await shop.ranker.rank(call("i1", caller=user), budget())).release for user in users]
    assert first == again
    assert set(first) == {"r1", "r2"}


async def test_rows_of_an_earlier_epoch_count_as_absent(shop: Shop) -> None:
    route = Route(champion="r1", slot="a", epoch=2)
    shop.state.worlds = worlds_of(shop.plan, Routes.only(route), {"r1": release("r1", shop.plan)})
    await shop.ranker.rank(call("i1"), budget())
    assert not shop.scorer.calls[0][1]["row_mask"].any()
    assert to_message(shop.served[0]).items[0].row_seq == 0


async def test_a_preview_answers_the_same_and_leaves_no_trace(shop: Shop) -> None:
    answer = await shop.ranker.rank(call("i1", "i20", "i5"), budget())
    seen = await shop.ranker.rank(replace(call("i1", "i20", "i5"), preview=True), budget())
    assert (seen.ids, seen.scores.tolist()) == (answer.ids, answer.scores.tolist())
    assert (seen.token, len(shop.served)) == ("", 1)
