"""The last turns of a conversation are a query like any other; help articles are items like others, told apart by a
category. What was read of them is learned from.
"""

import asyncio
import time

import pytest
from freshrank.v1 import ranking_pb2

from services.demo.api import Api
from tests.pipeline.loop import Loop
from tests.pipeline.stories.test_a_click_changes_the_ranking import click

pytestmark = pytest.mark.pipeline

ARTICLES = {
    "help-returns": (
        "Sending an item back",
        "How to return an order that arrived damaged, and get money refunded.",
    ),
    "help-delivery": ("Delivery times", "When parcels arrive, and how to change the address of a delivery."),
    "help-account": ("Your account", "Change a password or an e-mail address, or close an account."),
    "help-payment": ("Ways of paying", "Cards, invoices and vouchers, and what to do when a payment fails."),
}
CONVERSATION = """
Hello, I need some help please. Of course, what is it about? I ordered a mixing bowl last week and it came on Tuesday.
That is good to hear, was everything all right with it? No, it arrived damaged, there is a crack across the whole side,
so I would like to return it. I am sorry about that. Can I get my money refunded?
"""


async def test_the_turns_of_a_conversation_find_the_article(loop: Loop) -> None:
    await loop.serving()
    items = [
        ranking_pb2.Item(item_id=item, title=title, description=text, categories=["help"])
        for item, (title, text) in ARTICLES.items()
    ]
    shopper = ranking_pb2.Shopper(user_id="cy-asks", session_id="cy-asks-1")
    async with loop.calling() as api:
        await api.stock(items)
        answer = await found(api, shopper)
        assert {result.item_id for result in answer.results} <= ARTICLES.keys()
        asked = ranking_pb2.ExplainRequest(attribution_token=answer.attribution_token, item_id="help-returns", top=100)
        explained = await api.stub.Explain(asked, timeout=5)
        assert {"return", "damaged", "refunded"} <= set(explained.matched_words)
        values = {part.feature: part.value for part in explained.contributions}
        assert next(value for name, value in values.items() if name.endswith(":lexical_share")) == 1.0
        read = click("cy-reads", shopper, "help-returns", answer.attribution_token, time.time_ns() // 1000)
        (result,) = await api.track([read])
        assert not result.error_reason
    await loop.follower.caught_up()
    logged = {impression.impression_id: impression for impression in loop.impressions()}[answer.request_id]
    assert logged.query == " ".join(CONVERSATION.casefold().split())
    assert await loop.ledger() == {}


async def found(api: Api, shopper: ranking_pb2.Shopper) -> ranking_pb2.RankingResponse:
    """The first answer in which the article is: they come one by one."""
    ends = time.monotonic() + 30
    while True:
        request = ranking_pb2.SearchRequest(
            shopper=shopper, query=CONVERSATION, filter=ranking_pb2.Filter(categories=["help"])
        )
        answer: ranking_pb2.RankingResponse = await api.stub.Search(request, timeout=5)
        if "help-returns" in {result.item_id for result in answer.results}:
            return answer
        assert time.monotonic() < ends, "no article is found"
        await asyncio.sleep(0.1)
