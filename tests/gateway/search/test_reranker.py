"""Search with a reranker: it reads the first items with the query, and its order is fused with theirs."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem, TextRoute
from tokenizers import processors

from services.common.errors import CorruptState, DeadlineExceeded, TemporaryError
from services.gateway.calls import Caller, ExplainCall, SearchCall
from services.gateway.impressions import to_message
from services.gateway.kafka import with_record
from services.gateway.messages import explanation
from services.gateway.releases import Routes
from services.gateway.search.searcher import Searcher, SearchPolicy
from services.text import names
from services.text.folder import RERANKER, Encoder
from services.text.reranker import INPUTS
from tests.gateway.search import encoder
from tests.gateway.shop import NOW, Shop, budget

ADA = Caller("ada", "visit")
NAME = "x20260101t000000-aaaaaaaa"
ENTRIES = [
    CatalogueItem(item_id="plain", title="old chair", price=1.0, stock=-1),
    CatalogueItem(item_id="red", title="red chair", description="for an old light", price=2.0, stock=-1),
    CatalogueItem(item_id="bed", title="chair bed", description="thing thing", price=900.0, stock=-1),
]


def call(query: str, size: int = 10, **others: object) -> SearchCall:
    return SearchCall(ADA, query, "search", size, NOW, **others)  # type: ignore[arg-type]


def searcher(shop: Shop, most: int, share: float = 1.0) -> Searcher:
    policy = SearchPolicy(rerank=most, rerank_share=share)
    return Searcher(shop.ranker, shop.pipeline, shop.words, shop.texts, policy, shop.rerankers)


def keep(store: Path, name: str) -> None:
    """What the gateway reads of a reranker's folder."""
    folder = names.kept(store, RERANKER) / name
    folder.mkdir(parents=True)
    tokens = encoder.tokens()
    tokens.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    about = Encoder(name, 1, 32, "", source=name[-8:] * 8, kind=RERANKER, inputs=INPUTS)
    (folder / "encoder.json").write_text(about.to_json())
    (folder / "tokenizer.json").write_text(tokens.to_str())


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.upsert(*ENTRIES)
    keep(tmp_path / "store", NAME)
    made.rerankers.routed(TextRoute(encoder=NAME))
    made.rerankers.renew()
    return made


async def test_its_order_is_the_answers(shop: Shop) -> None:
    ranked = await shop.searcher.search(call("chair"), budget())
    assert ranked.ids[0] == "bed"  # the dearest, as the scorer likes it
    assert shop.pairs.asked == []  # it is off unless asked for
    answer = await searcher(shop, 8).search(call("chair"), budget())
    assert answer.ids == ["plain", "bed", "red"]  # by the words of title and description
    assert (np.diff(answer.scores) < 0).all()
    name, arrays = shop.pairs.asked[0]
    assert name == NAME
    assert arrays["input_ids"].shape[0] == 3


async def test_the_first_items_alone_are_read(shop: Shop) -> None:
    before = await shop.searcher.search(call("thing", size=30), budget())
    answer = await searcher(shop, 4).search(call("thing", size=30), budget())
    assert shop.pairs.asked[0][1]["input_ids"].shape[0] == 4
    assert sorted(answer.ids[:4]) == sorted(before.ids[:4])
    assert answer.ids[4:] == before.ids[4:]
    assert (np.diff(answer.scores) <= 0).all()


async def test_pages_go_on_behind_what_was_reranked(shop: Shop) -> None:
    whole = await searcher(shop, 8).search(call("chair"), budget())
    first = await searcher(shop, 8).search(call("chair", size=1), budget())
    second = await searcher(shop, 8).search(call("", page_token=first.next_page), budget())
    third = await searcher(shop, 8).search(call("", page_token=second.next_page), budget())
    assert [*first.ids, *second.ids, *third.ids] == whole.ids


async def test_both_orders_count_as_much_as_they_are_told_to(shop: Shop) -> None:
    before = await shop.searcher.search(call("chair"), budget())
    nothing = await searcher(shop, 8, share=0.0).search(call("chair"), budget())
    assert nothing.ids == before.ids


async def test_what_was_mistyped_is_read_as_it_is_looked_for(shop: Shop) -> None:
    answer = await searcher(shop, 8).search(call("chairr"), budget())
    assert answer.corrected == "chair"
    assert answer.ids == ["plain", "bed", "red"]


@pytest.mark.parametrize("failure", [TemporaryError("down"), DeadlineExceeded("late")], ids=["away", "late"])
async def test_late_or_away_the_answer_is_the_rankers(shop: Shop, failure: TemporaryError) -> None:
    before = await shop.searcher.search(call("chair"), budget())
    shop.pairs.failure = failure
    answer = await searcher(shop, 8).search(call("chair"), budget())
    assert answer.ids == before.ids
    assert answer.scores.tolist() == before.scores.tolist()
    assert shop.meters.faults.labels("rerank", type(failure).__name__)._value.get() == 1
    assert shop.served[-1].reranker == ""


async def test_without_time_left_it_is_not_asked(shop: Shop) -> None:
    before = await shop.searcher.search(call("chair"), budget())
    spent = budget(0.0)
    answer = await searcher(shop, 8).search(call("chair"), spent)
    assert set(answer.ids) == set(before.ids)
    assert shop.pairs.asked == []
    assert shop.meters.faults.labels("rerank", "DeadlineExceeded")._value.get() == 1


async def test_impression_and_explanation_have_its_scores(shop: Shop) -> None:
    shop.upsert(*(CatalogueItem(item_id=f"c{n}", title="chair", price=1.0, stock=0 if n else -1) for n in range(3)))
    answer = await searcher(shop, 2).search(call("chair"), budget())
    message = to_message(shop.served[-1])
    assert message.reranker == NAME
    known = {item.item_id: item.reranked for item in message.items if item.HasField("reranked")}
    assert set(known) == set(answer.ids[:2])
    item = answer.ids[0]
    explained = explanation(await shop.explainer.explain(ExplainCall(answer.token, item, 5, NOW), budget(), 0.0))
    assert (explained.reranker, explained.reranked) == (NAME, known[item])
    last = await shop.explainer.explain(ExplainCall(answer.token, answer.ids[-1], 5, NOW), budget(), 0.0)
    assert explanation(last).reranker == ""


async def test_a_reranker_that_cannot_be_read_leaves_the_one_before(shop: Shop) -> None:
    shop.rerankers.routed(TextRoute(encoder="x20260102t000000-bbbbbbbb"))
    with pytest.raises(CorruptState):
        shop.rerankers.renew()
    assert shop.rerankers.now is not None
    shop.rerankers.routed(TextRoute())
    shop.rerankers.renew()
    await searcher(shop, 8).search(call("chair"), budget())
    assert shop.pairs.asked == []


def test_its_record_is_one_of_the_routes() -> None:
    record = TextRoute(encoder=NAME, at=["one:8001"], term=2)
    routes = with_record(Routes(), b"reranker", record.SerializeToString())
    assert routes.reranker == record
    assert routes.places == {NAME: ("one:8001",)}
    earlier = TextRoute(encoder="x", term=1).SerializeToString()
    assert with_record(routes, b"reranker", earlier) == routes


def test_texts_are_those_of_the_newest_entries(shop: Shop) -> None:
    reader = shop.words.reader
    assert reader is not None
    slots = dict(zip(("red", "bed"), shop.table.slots(["red", "bed"]).tolist(), strict=True))
    assert reader.texts(["red", "bed", "nobody"]) == {
        slots["red"]: "red chair. for an old light", slots["bed"]: "chair bed. thing thing"
    }  # fmt: skip
    shop.upsert(CatalogueItem(item_id="red", title="\u7ea2 \u2764 " * 400, stock=-1))
    assert len(reader.texts(["red"])[slots["red"]]) == 600
