"""A shopper clicks, and the very next answers are made from what the click changed."""

import asyncio
import time

import pytest
from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.api import Api
from tests.pipeline.loop import Loop

pytestmark = pytest.mark.pipeline


async def test_what_was_clicked_is_in_the_features_of_the_next_answers(loop: Loop) -> None:
    await loop.serving()
    async with loop.calling() as api:
        ada = ranking_pb2.Shopper(user_id="ada", session_id="ada-1")
        before, shown = await ask(api, ada)
        clicked = shown[3]
        clicked_us = time.time_ns() // 1000
        (result,) = await api.track([click("ada-click", ada, clicked, before.attribution_token, clicked_us)])
        assert (result.error_reason, result.partition >= 0) == ("", True)
        answers = {before.request_id: before}
        for _ in range(40):
            answer, _ = await ask(api, ada)
            answers[answer.request_id] = answer
            await asyncio.sleep(0.05)
    await loop.follower.caught_up()

    served = sorted((i for i in loop.impressions() if i.user_id == "ada"), key=lambda i: i.time_us)
    first = served[0]
    after = next(i for i in served if clicked in [entry.item_id for entry in i.history])
    print(f"the click was in answers {(after.time_us - clicked_us) / 1e6:.2f} s after it")
    assert first.impression_id == before.request_id
    assert not first.history
    assert [entry.item_id for entry in after.history] == [clicked]
    assert changed_features(first, after)
    assert scores(before) != scores(answers[after.impression_id])
    assert all(clicked in [entry.item_id for entry in i.history] for i in served[served.index(after) :])


async def ask(api: Api, shopper: ranking_pb2.Shopper) -> tuple[ranking_pb2.RankingResponse, list[str]]:
    asked = await api.recommend(shopper)
    assert asked is not None
    return asked[0], asked[1].items


def click(event_id: str, shopper: ranking_pb2.Shopper, item: str, token: str, at_us: int) -> events_pb2.Event:
    return events_pb2.Event(
        event_id=event_id,
        kind=events_pb2.EVENT_KIND_CLICK,
        user_id=shopper.user_id,
        session_id=shopper.session_id,
        item_id=item,
        event_time_us=at_us,
        attribution_token=token,
        source="story",
    )


def changed_features(first: events_pb2.Impression, second: events_pb2.Impression) -> list[int]:
    """Ids of the shopper's features whose values differ."""
    pairs = zip(first.user_feature_ids, first.user_features, second.user_features, strict=True)
    return [feature for feature, old, new in pairs if old != new and not (old != old and new != new)]


def scores(answer: ranking_pb2.RankingResponse) -> dict[str, float]:
    return {result.item_id: result.score for result in answer.results}
