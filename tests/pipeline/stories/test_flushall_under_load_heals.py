"""The online store loses everything in the middle of traffic: the features come back by themselves, from the log."""

import asyncio

import pytest
import redis

from services.demo.traffic import Pace
from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline


async def test_an_emptied_store_is_filled_again_and_equals_the_log(loop: Loop) -> None:
    await loop.serving()
    with redis.Redis.from_url(loop.stack.redis.url) as store:
        before = int(store.dbsize())
        async with loop.traffic(Pace(seconds=12, events_per_second=100, sessions_per_second=3)):
            await asyncio.sleep(3)
            store.flushall()
        assert before > 0
        await eventually(lambda: int(store.dbsize()) >= before, 60)
    print("ended by themselves and started again:", await loop.revive())
    assert await loop.ledger(120) == {}
