"""Search through the gateway's core: what is found, ranked, shown and logged."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem, ItemFeatures

from services.common.plans import cross
from services.common.tokens import query_of
from services.gateway import cross as crosses
from services.gateway.calls import Caller, ExplainCall, RankCall, SearchCall, SuggestCall
from services.gateway.candidates import Match, Wanted
from services.gateway.impressions import to_message
from services.gateway.search.finder import blended
from services.gateway.search.searcher import Searcher, SearchPolicy
from services.gateway.search.wish import Filter
from tests.gateway.shop import NOW, Shop, budget

ADA = Caller("ada", "visit")


def call(query: str, size: int = 10, **others: object) -> SearchCall:
    return SearchCall(ADA, query, "search", size, NOW, **others)  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def with_relevance(shop: Shop, share: float) -> Searcher:
    return Searcher(shop.ranker, shop.pipeline, shop.words, shop.texts, SearchPolicy(relevance=share))


async def test_words_find_the_model_and_the_match_order(shop: Shop) -> None:
    shop.upsert(CatalogueItem(item_id="i0", title="thing thing", price=1.0, stock=-1))
    by_words = await with_relevance(shop, 1.0).search(call("thing"), budget())
    assert by_words.ids[0] == "i0"
    by_model = await with_relevance(shop, 0.0).search(call("thing"), budget())
    assert by_model.ids[0] == "i29"  # the dearest, as the scorer likes it
    assert by_words.found == by_model.found == 30
    assert (np.diff(by_model.scores) <= 0).all()


async def test_items_with_all_words_come_before_those_with_some(shop: Shop) -> None:
    answer = await with_relevance(shop, 0.0).search(call("thing 7", size=30), budget())
    assert answer.ids[:2] == ["i7", "i29"]
    assert (np.diff(answer.scores) <= 0).all()
    for n in range(10):
        shop.upsert(CatalogueItem(item_id=f"s{n}", title=f"thing 7 size {n}", price=1.0, stock=-1))
    answer = await shop.searcher.search(call("thing 7", size=30), budget())
    assert len(answer.ids) == answer.found == 11  # enough of them: no others are found


async def test_an_answer_is_an_impression_of_the_query(shop: Shop) -> None:
    answer = await shop.searcher.search(call("  Thing 7", size=3), budget())
    message = to_message(shop.served[-1])
    assert (message.placement, message.query, message.closed_loop) == ("search", "thing 7", True)
    assert [item.item_id for item in message.items] == list(answer.ids)
    assert answer.token
    assert (answer.query, answer.corrected) == ("thing 7", "")


async def test_the_store_is_asked_for_the_query_as_it_is_counted(shop: Shop) -> None:
    page = await shop.searcher.search(call("  Thing 7", size=3), budget())
    await shop.searcher.search(call("", size=3, page_token=page.next_page), budget())
    await shop.searcher.search(call("thing " * 20), budget())
    await shop.ranker.rank(RankCall(ADA, "rank", Wanted.of(["i1"]), NOW), budget())
    assert [ask.query for ask in shop.store.asked] == ["thing 7", "thing 7", "", ""]
    assert query_of(page.token) == "thing 7"


async def test_a_preview_leaves_no_trace(shop: Shop) -> None:
    answer = await shop.searcher.search(call("thing", preview=True), budget())
    assert answer.ids
    assert not answer.token
    assert not shop.served


async def test_pages_go_on_without_gaps_or_repeats(shop: Shop) -> None:
    seen: list[str] = []
    answer = await shop.searcher.search(call("thing 7", size=12), budget())
    seen += answer.ids
    while answer.next_page:
        answer = await shop.searcher.search(call("", page_token=answer.next_page), budget())
        assert answer.query == "thing 7"
        seen += answer.ids
    assert sorted(seen) == sorted(f"i{n}" for n in range(30))
    assert [served.first_position for served in shop.served] == [0, 12, 24]
    assert [to_message(served).query for served in shop.served] == ["thing 7"] * 3


async def test_filters_facets_and_corrections(shop: Shop) -> None:
    wanted = call("thimg", filter=Filter(categories=["hats"], price_to=10.0), facets=True)
    answer = await shop.searcher.search(wanted, budget())
    assert set(answer.ids) == {"i2", "i5", "i8"}
    assert answer.corrected == "thing"
    assert answer.facets["category"] == [("hats", 3)]
    nothing = await shop.searcher.search(call("banana", exact=True), budget())
    assert (list(nothing.ids), nothing.token, nothing.found) == ([], "", 0)


async def test_what_was_sold_out_since_the_index_was_written_is_not_shown(shop: Shop) -> None:
    entry = CatalogueItem(item_id="i7", title="thing 7", stock=0)
    shop.writer.apply([(b"c|i7", entry.SerializeToString())])  # the table knows, the index does not yet
    answer = await shop.searcher.search(call("thing 7", size=30), budget())
    assert "i7" not in answer.ids


async def test_a_new_item_is_found_once_it_is_in_the_index(shop: Shop) -> None:
    assert not (await shop.searcher.search(call("umbrella", exact=True), budget())).ids
    shop.upsert(CatalogueItem(item_id="rain", title="Umbrella", price=1.0, stock=-1))
    assert (await shop.searcher.search(call("umbrellas"), budget())).ids == ["rain"]


HELP = {
    "returns": ("Sending things back", "You can return what you bought within thirty days; the refund takes a week."),
    "delivery": ("When will it arrive", "Parcels are delivered in two days; large furniture takes longer."),
    "password": ("I cannot log in", "Ask for a new password by mail; the link holds for an hour."),
}


async def test_help_is_found_with_the_last_turns_of_a_conversation(shop: Shop) -> None:
    shop.upsert(
        *(
            CatalogueItem(item_id=item, title=title, description=text, categories=["help"], stock=-1)
            for item, (title, text) in HELP.items()
        )
    )
    turns = ["hi, i ordered a sofa last week", "when will it be delivered? it is large", "and can you tell me by mail?"]
    keep = Filter(categories=["help"])
    answer = await shop.searcher.search(call(" ".join(turns), filter=keep), budget())
    assert answer.ids[0] == "delivery"
    answer = await shop.searcher.search(call("i forgot my password, the link does not work", filter=keep), budget())
    assert answer.ids[0] == "password"


async def test_an_explanation_tells_the_words_that_matched(shop: Shop) -> None:
    answer = await shop.searcher.search(call("blue thimg 7"), budget())
    explained = await shop.explainer.explain(ExplainCall(answer.token, "i7", 5, NOW), budget(), 0.0)
    assert (explained.query, list(explained.matched)) == ("blue thimg 7", ["thimg", "7"])


async def test_suggestions_are_what_shoppers_search_for(shop: Shop) -> None:
    said = ItemFeatures(values=[3]).SerializeToString()
    shop.indexer.apply([(b"q|thing 7", said), (b"q|thimg 7", said)], lambda item: 0)
    shop.indexer.settle({0: 1}, 1e9, caught_up=True)
    shop.look()
    assert shop.searcher.suggest(SuggestCall("th", 5, NOW)) == ["thing 7", "thing"]  # nothing has the other word


def test_features_of_the_match() -> None:
    match = Match(2, np.array([4.0, np.nan, 1.0], np.float32), np.array([0.5, 0.1, np.nan], np.float32))
    nothing = np.zeros(3, np.int64)
    scene = crosses.Scene(NOW, nothing, nothing.astype(np.float32), nothing, nothing, {}, match)
    names = ("lexical_score", "lexical_share", "text_similarity", "query_words")
    features = [cross("cross", name, {"builtin": name}) for name in names]
    expected = np.array([[4, 1, 0.5, 2], [np.nan, np.nan, 0.1, 2], [1, 0.25, np.nan, 2]], np.float32)
    np.testing.assert_array_equal(crosses.compute(features, scene), expected)
    without = crosses.Scene(NOW, nothing, nothing.astype(np.float32), nothing, nothing, {})
    assert np.isnan(crosses.compute(features, without)).all()


def test_both_orders_count_as_much_as_they_are_told_to() -> None:
    model, prior = np.array([2, 1, 0]), np.array([1, 2, 3])
    assert blended(model, prior, 1.0)[0].tolist() == [0, 1, 2]
    assert blended(model, prior, 0.0)[0].tolist() == [2, 1, 0]
    order, score = blended(model, prior, 0.5)
    assert order[-1] == 1  # in the middle of both
    assert (np.diff(score) <= 0).all()
