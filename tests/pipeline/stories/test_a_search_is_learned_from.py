"""A shopper searches, with a typo; what is found is ranked, clicked, and learned from like everything else."""

import asyncio
import time

import pytest
from freshrank.v1 import ranking_pb2

from services.demo.api import Api
from tests.pipeline.loop import Loop
from tests.pipeline.stories.test_a_click_changes_the_ranking import click

pytestmark = pytest.mark.pipeline

ITEMS = [
    ranking_pb2.Item(
        item_id=f"brolly-{n}", title=f"{word} umbrella", categories=["rain"], brand="Nimbo", price=10 + n, stock=5
    )
    for n, word in enumerate(("folding", "golf", "clear", "wooden", "storm"))
]


async def test_a_search_with_a_typo_finds_is_logged_and_becomes_an_example(loop: Loop) -> None:
    await loop.serving()
    async with loop.calling() as api:
        await api.stock(ITEMS)
        ada = ranking_pb2.Shopper(user_id="ada-searches", session_id="ada-searches-1")
        answer = await found(api, ada, "golf umbrela")
        assert answer.corrected_query == "golf umbrella"
        assert answer.results[0].item_id == "brolly-1"
        assert {result.item_id for result in answer.results} >= {item.item_id for item in ITEMS}
        assert answer.release
        now_us = time.time_ns() // 1000
        event = click("ada-found", ada, "brolly-1", answer.attribution_token, now_us)
        (result,) = await api.track([event])
        assert not result.error_reason
        with_filter = await search(api, ada, "umbrella", ranking_pb2.Filter(price_from=12, brands=["nimbo"]))
        assert {r.item_id for r in with_filter.results} == {"brolly-2", "brolly-3", "brolly-4"}
    await loop.follower.caught_up()

    served = {impression.impression_id: impression for impression in loop.impressions()}
    logged = served[answer.request_id]
    assert (logged.query, logged.placement) == ("golf umbrela", "search")
    assert [item.item_id for item in logged.items] == [result.item_id for result in answer.results]
    assert await loop.ledger() == {}


async def found(api: Api, shopper: ranking_pb2.Shopper, query: str) -> ranking_pb2.RankingResponse:
    """The first answer in which all items are: they are found within a second of their sending."""
    sent = time.monotonic()
    while True:
        answer = await search(api, shopper, query)
        if answer.corrected_query and len(answer.results) >= len(ITEMS):
            print(f"found {time.monotonic() - sent:.2f} s after it was sent")
            return answer
        assert time.monotonic() < sent + 30, answer
        await asyncio.sleep(0.1)


async def search(
    api: Api, shopper: ranking_pb2.Shopper, query: str, keep: ranking_pb2.Filter | None = None
) -> ranking_pb2.RankingResponse:
    request = ranking_pb2.SearchRequest(shopper=shopper, query=query, filter=keep)
    answer: ranking_pb2.RankingResponse = await api.stub.Search(request, timeout=2)
    return answer
