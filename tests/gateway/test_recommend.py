"""Recommend and Similar: items from the whole catalogue."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem

from services.common.errors import InvalidInput, NotFound, Overloaded, TemporaryError
from services.gateway import ladder, retrieve
from services.gateway.calls import Answer, Caller, RecommendCall, SimilarCall
from services.gateway.impressions import to_message
from services.gateway.ranker import Policy
from tests.gateway.shop import NOW, SECOND, TOKENS, Shop, budget, recent

ADA = Caller("ada", "visit")


def call(**more: object) -> RecommendCall:
    return RecommendCall(**{"caller": ADA, "placement": "home", "size": 5, "now_us": NOW, **more})  # type: ignore[arg-type]


def out_of_stock(shop: Shop, *items: str) -> None:
    shop.writer.apply([(f"c|{i}".encode(), CatalogueItem(item_id=i, stock=0).SerializeToString()) for i in items])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, policy=Policy(explore=0.0, category_cap=0))


async def test_the_best_of_the_catalogue_comes_first_with_a_reason(shop: Shop) -> None:
    answer = await shop.ranker.recommend(call(), budget())
    assert list(answer.ids) == ["i29", "i28", "i27", "i26", "i25"]
    assert all(reasons for reasons in answer.reasons)
    message = to_message(shop.served[0])
    assert message.closed_loop
    assert [item.shown for item in message.items] == [True] * 5 + [False] * 8
    assert TOKENS.check(answer.token, "ada", NOW) == message.impression_id


async def test_gone_sold_out_excluded_and_bought_items_are_left_out(shop: Shop) -> None:
    out_of_stock(shop, "i29")
    shop.writer.apply([(b"c|i28", None)])
    shop.store.lists = {"user_stats:recent": recent(("i27", 4, 5), ("i25", 1, 9))}
    shop.paint()
    answer = await shop.ranker.recommend(call(exclude=("i26",)), budget())
    assert list(answer.ids) == ["i25", "i24", "i23", "i22", "i21"]


async def test_stock_that_ran_out_after_the_picture_was_taken_is_seen(shop: Shop) -> None:
    out_of_stock(shop, "i29")
    assert "i29" not in (await shop.ranker.recommend(call(), budget())).ids


async def test_categories_limit_the_answer(shop: Shop) -> None:
    answer = await shop.ranker.recommend(call(categories=("hats", "nothing")), budget())
    assert list(answer.ids) == ["i29", "i26", "i23", "i20", "i17"]
    assert (await shop.ranker.recommend(call(categories=("nothing",)), budget())).ids == []


async def test_no_category_takes_more_than_its_share(tmp_path: Path) -> None:
    shop = Shop(tmp_path, items=60, policy=Policy(explore=0.0, category_cap=2, category_window=4))
    hats = [f"i{n}" for n in range(2, 60, 3)]
    for item in hats:
        entry = CatalogueItem(item_id=item, categories=["hats"], stock=-1, price=1000.0)
        shop.writer.apply([(f"c|{item}".encode(), entry.SerializeToString())])
    shop.paint()
    answer = await shop.ranker.recommend(call(size=12), budget())
    is_hat = [item in hats for item in answer.ids]
    assert all(sum(is_hat[k : k + 4]) <= 2 for k in range(8))
    assert is_hat[:2] == [True, True]


async def test_pages_go_on_where_the_last_one_ended_and_never_repeat(shop: Shop) -> None:
    seen: list[str] = []
    token, pages = "", []
    for _ in range(10):
        answer = await shop.ranker.recommend(call(page_token=token), budget())
        pages.append(answer)
        seen += answer.ids
        token = answer.next_page
        if not token:
            break
    assert len(seen) == len(set(seen)) == 30
    messages = [to_message(served) for served in shop.served]
    assert [message.page for message in messages] == [0, 1, 2, 3, 4, 5]
    assert messages[1].items[0].position == 5
    assert len({message.impression_id for message in messages}) == 6


async def test_page_two_is_stable_while_scores_change_but_drops_what_is_gone(shop: Shop) -> None:
    first = await shop.ranker.recommend(call(), budget())
    before = await shop.ranker.recommend(call(page_token=first.next_page), budget())
    shop.writer.apply([(b"c|i0", CatalogueItem(item_id="i0", price=900.0, stock=-1).SerializeToString())])
    out_of_stock(shop, before.ids[1])
    shop.paint()
    after = await shop.ranker.recommend(call(page_token=first.next_page), budget())
    assert list(after.ids)[:4] == [before.ids[0], *before.ids[2:]]


@pytest.mark.parametrize("change", ["user", "old", "text", "bytes"])
async def test_a_page_token_that_does_not_hold_is_refused(shop: Shop, change: str) -> None:
    first = await shop.ranker.recommend(call(), budget())
    token = first.next_page
    asked = {
        "user": call(page_token=token, caller=Caller("bob")),
        "old": call(page_token=token, now_us=NOW + 1801 * SECOND),
        "text": call(page_token="!"),
        "bytes": call(page_token=token[:30] + ("A" if token[30] != "A" else "B") + token[31:]),
    }[change]
    with pytest.raises(InvalidInput) as caught:
        await shop.ranker.recommend(asked, budget())
    assert caught.value.field == "page_token"


async def test_exploration_shows_items_from_below_and_logs_how_likely_that_was(tmp_path: Path) -> None:
    shop = Shop(tmp_path, policy=Policy(explore=0.2, category_cap=0))
    for _ in range(200):
        await shop.ranker.recommend(call(), budget())
    shown = [item for served in shop.served for item in to_message(served).items if item.shown]
    explored = [item for item in shown if item.explored]
    assert 0.1 < len(explored) / len(shown) < 0.3
    assert {round(item.propensity, 6) for item in shown if not item.explored} == {0.8}
    assert all(0.2 / 25 <= item.propensity <= 0.2 / 20 for item in explored)


async def test_without_a_release_popular_and_trending_items_are_answered_undegraded(tmp_path: Path) -> None:
    shop = Shop(tmp_path, champion="", policy=Policy(explore=0.0, category_cap=0))
    answer = await shop.ranker.recommend(call(), budget())
    assert (answer.ids[0], answer.rung, answer.release) == ("i29", ladder.NONE, "")


async def test_a_failing_store_gives_candidates_without_the_shopper(shop: Shop) -> None:
    shop.store.failure = TemporaryError("down")
    answer = await shop.ranker.recommend(call(), budget())
    assert (len(answer.ids), answer.rung) == (5, ladder.NO_USER_FEATURES)


async def test_an_empty_catalogue_gives_an_empty_answer_and_no_impression(tmp_path: Path) -> None:
    shop = Shop(tmp_path, items=0)
    answer = await shop.ranker.recommend(call(), budget())
    assert (list(answer.ids), answer.token, shop.served) == ([], "", [])


async def test_before_the_catalogue_was_read_callers_are_asked_to_come_back(shop: Shop) -> None:
    shop.state.picture = None
    with pytest.raises(Overloaded):
        await shop.ranker.recommend(call(), budget())


async def similar(shop: Shop, item: str, caller: Caller | None = None) -> Answer:
    return await shop.ranker.similar(SimilarCall(item, 3, NOW, caller), budget())


async def test_similar_items_are_near_and_not_the_item_itself(shop: Shop) -> None:
    answer = await similar(shop, "i3")
    assert "i3" not in answer.ids
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    assert (answer.token, shop.served) == ("", [])
    assert answer.reasons[0] == ["similar to i3"]


async def test_similar_for_a_shopper_leaves_seen_items_out_and_is_logged(shop: Shop) -> None:
    nearest = (await similar(shop, "i3")).ids[0]
    shop.store.lists = {"user_stats:recent": recent((nearest, 1, 5))}
    answer = await similar(shop, "i3", ADA)
    assert nearest not in answer.ids
    message = to_message(shop.served[0])
    assert (message.placement, [item.item_id for item in message.items]) == ("similar", list(answer.ids))
    np.testing.assert_allclose([item.score for item in message.items], answer.scores)


async def test_similar_to_an_unknown_item_is_not_found(shop: Shop) -> None:
    with pytest.raises(NotFound):
        await similar(shop, "never")


async def test_what_is_seen_together_is_retrieved(tmp_path: Path) -> None:
    shop = Shop(tmp_path, policy=Policy(explore=0.0, category_cap=0))
    shop.covisits.saw("s", "i2")
    shop.covisits.saw("s", "i0")
    shop.store.lists = {"user_stats:recent": recent(("i2", 2, 1))}
    answer = await shop.ranker.recommend(call(size=30), budget())
    reasons = dict(zip(answer.ids, answer.reasons, strict=True))
    assert reasons["i0"] == [retrieve.COVISITED]


async def test_a_preview_explores_nothing_and_leaves_no_trace(tmp_path: Path) -> None:
    shop = Shop(tmp_path, policy=Policy(explore=1.0, category_cap=0))
    seen = await shop.ranker.recommend(call(preview=True), budget())
    assert list(seen.ids) == ["i29", "i28", "i27", "i26", "i25"]
    assert (seen.token, shop.served) == ("", [])
