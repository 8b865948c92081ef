"""A shopper searches, with a typo; what is found is ranked, clicked, and learned from like everything else."""

import asyncio
import json
import time
from typing import Any

import pytest
from freshrank.v1 import ranking_pb2

from services.demo.api import Api
from services.publisher.judgments import file_of
from tests.pipeline.loop import Loop, eventually
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


PARASOLS = [
    ranking_pb2.Item(item_id=f"parasol-{n}", title=f"{word} parasol", categories=["shade"], price=30 + n, stock=5)
    for n, word in enumerate(("garden", "beach", "patio"))
]
COUNTED = {
    "query_stats:query_clicks_30d": 3,
    "query_stats:query_shoppers_7d": 5,
    "query_stats:query_reformulations_7d": 1,
}
OF_ITEM, OF_CATEGORY = "query_item_stats:query_item_clicks_30d", "query_category_stats:query_category_clicks_7d"


async def test_what_follows_a_search_is_counted_for_its_query_and_seen_in_the_next_answer(loop: Loop) -> None:
    await loop.serving()
    async with loop.calling() as api:
        await api.stock(PARASOLS)
        asking = [ranking_pb2.Shopper(user_id=f"parasol-{n}", session_id=f"parasol-{n}-1") for n in range(4)]
        for shopper in asking:
            answer = await eventually(lambda shopper=shopper: all_of(api, shopper, "Garden parasol"))
            if shopper is asking[-1]:
                await search(api, shopper, "beach parasol")  # found nothing to click, and says it in other words
            else:
                event = click(f"found-{shopper.user_id}", shopper, "parasol-0", answer.attribution_token, time_us())
                (result,) = await api.track([event])
                assert not result.error_reason
        last = ranking_pb2.Shopper(user_id="parasol-last")
        counted = await eventually(lambda: explained(api, last, "garden parasol", wanted=(OF_ITEM, 3)))
        assert [counted[name] for name in (OF_ITEM, OF_CATEGORY)] == [3, 3]
        for name, want in COUNTED.items():
            await eventually(lambda name=name, want=want: explained(api, last, "garden parasol", wanted=(name, want)))
        await eventually(lambda: suggested(api, "garden p", "garden parasol"), 30)
        other = await explained(api, last, "patio parasol")
        assert other[OF_ITEM] != 3
    assert await loop.ledger() == {}


async def test_what_people_judged_is_asked_before_a_release(loop: Loop) -> None:
    await loop.serving()
    async with loop.traffic():
        pass
    await loop.follower.caught_up()
    path = file_of(loop.plan.store)
    judgments = [
        {"query": shown.query, "item": item.item_id, "grade": int(place < 2)}
        for shown in loop.impressions()
        if shown.query
        for place, item in enumerate(shown.items)
    ]
    path.write_text("\n".join(map(json.dumps, judgments)))
    until = time.monotonic() + 300
    try:
        while not (check := judged_check(loop)):  # candidates that something else speaks against do not come so far
            assert time.monotonic() < until, loop.audit()[-10:]
            async with loop.traffic():
                pass
    finally:
        path.unlink()
    print(check)
    assert check["detail"].startswith("NDCG@10 0.")
    assert int(check["detail"].split()[-2]) >= 5
    assert check["passed"] == (check["figure"] >= check["bound"])


def judged_check(loop: Loop) -> dict[str, Any]:
    """The newest check by judgments; empty before there is one."""
    checks = [check for entry in loop.audit() for check in entry.get("checks", ()) if check["name"] == "relevance"]
    return next((check for check in reversed(checks) if "not judged" not in check["detail"]), {})


def time_us() -> int:
    return time.time_ns() // 1000


async def all_of(api: Api, shopper: ranking_pb2.Shopper, query: str) -> ranking_pb2.RankingResponse | None:
    """The answer, once it has all parasols and a release has ranked it."""
    answer = await search(api, shopper, query)
    found = {result.item_id for result in answer.results}
    return answer if answer.release and found >= {item.item_id for item in PARASOLS} else None


async def explained(
    api: Api, shopper: ranking_pb2.Shopper, query: str, wanted: tuple[str, float] | None = None
) -> dict[str, float]:
    """Features of the first parasol in the answer to a query; nothing while one is not what it should be."""
    answer = await search(api, shopper, query)
    request = ranking_pb2.ExplainRequest(attribution_token=answer.attribution_token, item_id="parasol-0", top=500)
    found = await api.stub.Explain(request, timeout=10)
    values = {part.feature: part.value for part in found.contributions}
    return values if wanted is None or values[wanted[0]] == wanted[1] else {}


async def suggested(api: Api, prefix: str, query: str) -> bool:
    """Whether a query is suggested."""
    answer = await api.stub.Suggest(ranking_pb2.SuggestRequest(prefix=prefix), timeout=10)
    return query in answer.queries


async def found(api: Api, shopper: ranking_pb2.Shopper, query: str) -> ranking_pb2.RankingResponse:
    """The first answer in which all items are: they are found within a second of their sending."""
    sent = time.monotonic()
    while True:
        answer = await search(api, shopper, query)
        if answer.corrected_query and {r.item_id for r in answer.results} >= {item.item_id for item in ITEMS}:
            print(f"found {time.monotonic() - sent:.2f} s after it was sent")
            return answer
        assert time.monotonic() < sent + 30, answer
        await asyncio.sleep(0.1)


async def search(
    api: Api, shopper: ranking_pb2.Shopper, query: str, keep: ranking_pb2.Filter | None = None
) -> ranking_pb2.RankingResponse:
    request = ranking_pb2.SearchRequest(shopper=shopper, query=query, filter=keep, page_size=50)
    answer: ranking_pb2.RankingResponse = await api.stub.Search(request, timeout=10)
    return answer
