"""Search with an encoder: what means the same is found, and only by vectors of the encoder that made the query's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem, TextBefore, TextRoute

from services.common.errors import CorruptState, TemporaryError
from services.common.plans import cross
from services.gateway.calls import Caller, ExplainCall, SearchCall, SimilarCall
from services.gateway.cross import compute
from services.gateway.inputs import scene_of, touches
from services.gateway.ranker import Ranker
from services.gateway.search.finder import Meant, find, fused
from services.gateway.search.understand import Synonyms, understand
from services.gateway.search.wish import Filter
from services.text import names
from services.text.categories import FILE
from tests.gateway.search import encoder
from tests.gateway.shop import NOW, TOKENS, Shop, budget

ADA = Caller("ada", "visit")
FIRST, SECOND = "t20260101t000000-aaaaaaaa", "t20260102t000000-bbbbbbbb"
ENTRIES = [
    CatalogueItem(item_id="sofa", title="red sofa", price=90.0, stock=-1, categories=["home"], brand="Acme"),
    CatalogueItem(item_id="couch", title="old couch", price=10.0, stock=-1, categories=["home"], brand="Bolt"),
    CatalogueItem(item_id="lamp", title="lamp", price=20.0, stock=-1, categories=["lights"], brand="Acme"),
    CatalogueItem(item_id="bed", title="bed", price=30.0, stock=-1, categories=["home"], brand="Bolt"),
]


def call(query: str, size: int = 10, **others: object) -> SearchCall:
    return SearchCall(ADA, query, "search", size, NOW, **others)  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.upsert(*ENTRIES)
    made.writer.apply(encoder.rows(ENTRIES, "ta", 1))
    encoder.keep(tmp_path / "store", FIRST)
    made.texts.routed(TextRoute(encoder=FIRST, slot="ta", epoch=1))
    made.texts.renew(made.table)
    return made


async def test_what_means_the_same_is_found_after_what_says_the_same(shop: Shop) -> None:
    answer = await shop.searcher.search(call("couch"), budget())
    assert set(answer.ids) == {"couch", "sofa"}
    assert answer.found == 2
    alone = await shop.searcher.search(call("couch", exact=True), budget())
    assert set(alone.ids) == {"couch"}


async def test_nothing_is_near_what_nobody_sells(shop: Shop) -> None:
    answer = await shop.searcher.search(call("thermometer"), budget())
    assert answer.ids == []


async def test_the_similarity_is_logged_and_learned_from(shop: Shop) -> None:
    await shop.searcher.search(call("couch"), budget())
    match = shop.served[-1].candidates.wanted.match
    assert match is not None
    found = dict(zip(shop.served[-1].candidates.wanted.ids, match.similarity.tolist(), strict=True))
    assert found["couch"] == pytest.approx(0.71, abs=0.02)
    assert found["sofa"] == pytest.approx(0.71, abs=0.02)


TOLD = {"couch": "home", "lamp": "lights"}


async def test_a_search_says_what_it_was_for_and_the_ranking_reads_it(shop: Shop, tmp_path: Path) -> None:
    assert (await shop.searcher.search(call("couch"), budget())).asked == []
    encoder.keep(tmp_path / "store", SECOND, TOLD)
    shop.texts.routed(TextRoute(encoder=SECOND, slot="ta", epoch=1))
    shop.texts.renew(shop.table)
    answer = await shop.searcher.search(call("couch"), budget())
    ((category, sure),) = [told for told in answer.asked if told[1] > 0.5]
    assert (category, [name for name, _ in answer.asked]) == ("home", ["home"])
    assert 0.9 < sure < 1
    explained = await shop.explainer.explain(ExplainCall(answer.token, "couch", 50, NOW), budget(), 0.0)
    assert explained.asked == answer.asked
    unsure = await shop.searcher.search(call("lamp couch"), budget())
    assert {name for name, _ in unsure.asked} == {"home", "lights"}


async def test_each_candidate_gets_the_chance_of_its_category(shop: Shop, tmp_path: Path) -> None:
    shop.upsert(CatalogueItem(item_id="bare", title="couch", stock=-1), CatalogueItem(item_id="odd", title="couch",
                categories=["odd"], stock=-1))  # fmt: skip
    encoder.keep(tmp_path / "store", SECOND, TOLD)
    shop.texts.routed(TextRoute(encoder=SECOND, slot="ta", epoch=1))
    shop.texts.renew(shop.table)
    await shop.searcher.search(call("lamp couch"), budget())
    candidates, shopper = shop.served[-1].candidates, shop.served[-1].shopper
    scene = scene_of(candidates, shopper, touches(shop.table, shopper), NOW)
    feature = cross("cross", "category_probability", {"builtin": "category_probability"})
    values = dict(zip(candidates.wanted.ids, compute([feature], scene)[:, 0].tolist(), strict=True))
    match = candidates.wanted.match
    assert match is not None
    assert values["couch"] == pytest.approx(match.asked["home"])
    assert values["lamp"] == pytest.approx(match.asked["lights"])
    assert np.isnan([values["bare"], values["odd"]]).all()


async def test_an_encoder_whose_categories_cannot_be_read_is_not_used(shop: Shop, tmp_path: Path) -> None:
    encoder.keep(tmp_path / "store", SECOND, TOLD)
    (names.kept(tmp_path / "store") / SECOND / FILE).write_bytes(b"no")
    shop.texts.routed(TextRoute(encoder=SECOND, slot="ta", epoch=1))
    with pytest.raises(CorruptState):
        shop.texts.renew(shop.table)
    assert shop.texts.now is not None
    assert shop.texts.now.encoder == FIRST


BY = {"brand": Filter(brands=["acme"]), "price": Filter(price_to=15.0), "category": Filter(categories=["lights"])}


async def test_filters_hold_for_what_is_near(shop: Shop) -> None:
    found = {name: (await shop.searcher.search(call("couch", filter=keep), budget())).ids for name, keep in BY.items()}
    assert found == {"brand": ["sofa"], "price": ["couch"], "category": []}


@pytest.mark.parametrize("keep", BY.values(), ids=BY)
async def test_narrow_and_wide_filters_find_the_same(shop: Shop, keep: Filter) -> None:
    reader, text = shop.words.reader, shop.texts.now
    assert reader is not None
    assert text is not None
    query = understand("couch", reader.frequency, lambda word: None, Synonyms([]))
    vector = await shop.texts.query(text, "couch", lambda: 1.0)
    assert vector is not None
    wide, narrow = (
        shop.table.ids(find(reader, shop.table, query, keep, 10, False, Meant(text, vector), 0.3, most).slots)
        for most in (0, 2_000)
    )
    assert wide == narrow


async def test_facets_count_what_is_near(shop: Shop) -> None:
    answer = await shop.searcher.search(call("couch", facets=True), budget())
    assert answer.facets["brand"] == [("acme", 1), ("bolt", 1)]


async def test_pages_carry_the_similarity(shop: Shop) -> None:
    first = await shop.searcher.search(call("couch", size=1), budget())
    second = await shop.searcher.search(call("", page_token=first.next_page), budget())
    assert {*first.ids, *second.ids} == {"couch", "sofa"}
    match = shop.served[-1].candidates.wanted.match
    assert match is not None
    assert not np.isnan(match.similarity).any()


async def test_without_an_answer_of_the_encoder_words_do(shop: Shop) -> None:
    shop.embedder.failure = TemporaryError("down")
    answer = await shop.searcher.search(call("couch"), budget())
    assert answer.ids == ["couch"]
    page = shop.meters.faults.labels("text", "TemporaryError")
    assert page._value.get() == 1


async def test_a_query_is_asked_once(shop: Shop) -> None:
    for _ in range(3):
        await shop.searcher.search(call("Couch "), budget())
    assert shop.embedder.asked == [FIRST]


async def test_an_encoder_changes_with_its_vectors(shop: Shop, tmp_path: Path) -> None:
    encoder.keep(tmp_path / "store", SECOND)
    shop.embedder.turn[SECOND] = 1  # its vectors mean something else to the first one
    shop.writer.apply(encoder.rows(ENTRIES, "tb", 2, turn=1))
    before = await shop.searcher.search(call("couch"), budget())
    shop.texts.routed(TextRoute(encoder=SECOND, slot="tb", epoch=2))
    same = await shop.searcher.search(call("couch"), budget())
    shop.texts.renew(shop.table)
    after = await shop.searcher.search(call("couch"), budget())
    assert set(before.ids) == set(same.ids) == set(after.ids) == {"couch", "sofa"}
    assert shop.embedder.asked == [FIRST, SECOND]


async def test_an_encoder_that_cannot_be_read_leaves_the_one_before(shop: Shop) -> None:
    shop.texts.routed(TextRoute(encoder=SECOND, slot="tb", epoch=2))
    with pytest.raises(CorruptState):
        shop.texts.renew(shop.table)
    assert set((await shop.searcher.search(call("couch"), budget())).ids) == {"couch", "sofa"}
    shop.texts.routed(TextRoute())
    shop.texts.renew(shop.table)
    assert (await shop.searcher.search(call("couch"), budget())).ids == ["couch"]


async def test_an_item_whose_text_changed_is_compared_by_its_new_vector(shop: Shop) -> None:
    entry = CatalogueItem(item_id="bed", title="sofa bed", price=30.0, stock=-1)
    shop.upsert(entry)
    shop.writer.apply(encoder.rows([entry], "ta", 1))
    shop.texts.renew(shop.table)
    assert "bed" in (await shop.searcher.search(call("couch"), budget())).ids


def test_fusion_keeps_ties_and_adds_what_is_in_both() -> None:
    by_words, near = np.array([1, 2, 3]), np.array([9, 3])
    slots, ranks, sure = fused(by_words, np.array([1, 1, 3]), near, 10, np.array([1, 2, 3, 9]))
    assert (slots.tolist(), ranks.tolist(), sure) == ([3, 1, 2, 9], [1, 2, 2, 2], 4)


def test_what_has_some_words_stands_behind_what_has_all_and_what_means_as_much() -> None:
    slots, ranks, sure = fused(np.array([1, 3]), np.array([1, 2]), np.array([3, 9]), 10, np.array([1, 9]))
    assert (slots.tolist(), ranks.tolist(), sure) == ([1, 9, 3], [1, 2, 3], 2)


async def test_half_of_the_words_is_not_enough_however_the_model_likes_it(shop: Shop) -> None:
    dear = CatalogueItem(item_id="dear", title="red chair", price=900.0, stock=-1)
    shop.upsert(dear)
    shop.writer.apply(encoder.rows([dear], "ta", 1))
    shop.texts.renew(shop.table)
    answer = await shop.searcher.search(call("red sofa"), budget())
    assert answer.ids[0] == "sofa"
    assert set(answer.ids) >= {"sofa", "dear", "couch"}


async def test_similar_items_are_those_that_mean_the_same(shop: Shop) -> None:
    answer = await shop.ranker.similar(SimilarCall("sofa", 3, NOW), budget())
    assert answer.ids[0] == "couch"
    assert (np.diff(answer.scores) <= 0).all()
    again = replace(shop.ranker._policy, similar_text=0.0)
    without = Ranker(shop.pipeline, TOKENS, shop.emit, again, shop.covisits)
    assert (await without.similar(SimilarCall("sofa", 30, NOW), budget())).ids != answer.ids


async def test_an_item_without_a_vector_has_items_like_it_all_the_same(shop: Shop) -> None:
    answer = await shop.ranker.similar(SimilarCall("i3", 3, NOW), budget())
    assert len(answer.ids) == 3


async def test_some_shoppers_keep_the_encoder_before_with_its_own_vectors(shop: Shop, tmp_path: Path) -> None:
    encoder.keep(tmp_path / "store", SECOND)
    shop.embedder.turn[SECOND] = 1
    shop.writer.apply(encoder.rows(ENTRIES, "tb", 2, turn=1))
    before = TextBefore(encoder=FIRST, slot="ta", epoch=1, share=0.5)
    shop.texts.routed(TextRoute(encoder=SECOND, slot="tb", epoch=2, before=before))
    shop.texts.renew(shop.table)
    for n in range(20):
        answer = await shop.searcher.search(replace(call("couch"), caller=Caller(f"u{n}")), budget())
        assert set(answer.ids) == {"couch", "sofa"}  # whoever compared with the other's vectors would find others
    assert set(shop.embedder.asked) == {FIRST, SECOND}
    shop.texts.routed(TextRoute(encoder=SECOND, slot="tb", epoch=2))
    shop.texts.renew(shop.table)
    assert {shop.texts.of(f"u{n}").encoder for n in range(20)} == {SECOND}  # type: ignore[union-attr]


async def test_an_encoder_before_that_cannot_be_read_is_kept_by_nobody(shop: Shop) -> None:
    before = TextBefore(encoder=SECOND, slot="tb", epoch=2, share=1.0)
    shop.texts.routed(TextRoute(encoder=FIRST, slot="ta", epoch=1, before=before))
    shop.texts.renew(shop.table)
    assert shop.texts.of("ada") is shop.texts.now is not None
