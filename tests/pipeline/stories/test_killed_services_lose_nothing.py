"""Every service and part is killed under traffic and started again: nothing acknowledged is lost or doubled."""

import asyncio

import pytest
from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.api import Api
from services.demo.traffic import Pace
from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline

KILLED = ("ingest", "features", "joiner", "trainer", "publisher", "gateway", "redis", "triton")
LABELLED = {
    events_pb2.DEGRADATION_NONE,
    events_pb2.DEGRADATION_STALE_FEATURES,
    events_pb2.DEGRADATION_NO_USER_FEATURES,
    events_pb2.DEGRADATION_LAST_RELEASE,
    events_pb2.DEGRADATION_POPULAR,
}


async def test_each_is_killed_under_traffic_and_the_ledger_holds(loop: Loop) -> None:
    await loop.serving()
    answered = len(loop.record.answers)
    for name in KILLED:
        acknowledged = loop.record.events
        async with loop.traffic(Pace(seconds=3, events_per_second=100, sessions_per_second=4)):
            await asyncio.sleep(1)
            loop.kill(name)
            await asyncio.sleep(0.5)
            took = await asyncio.to_thread(loop.restart, name)
        assert loop.record.events > acknowledged
        print(f"{name} was ready again after {took:.1f} s; ended by themselves: {await loop.revive()}")
    answers = loop.record.answers[answered:]
    assert answers
    assert {answer.degradation for answer in answers} <= LABELLED
    assert await loop.ledger(120) == {}
    async with loop.calling() as api:
        await eventually(lambda: fresh(api), 30)


async def fresh(api: Api) -> bool:
    """Whether a new shopper is answered by a release."""
    asked = await api.recommend(ranking_pb2.Shopper(user_id="cleo", session_id="cleo-1"))
    return asked is not None and bool(asked[0].release) and asked[1].degradation == events_pb2.DEGRADATION_NONE
