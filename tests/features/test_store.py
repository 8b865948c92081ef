"""Values reach the online store in order, and all of them again when the store has lost them."""

from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry

from services.common.clock import ManualClock
from services.common.metrics import Metrics
from services.demo.redis import Redis
from services.features.by_user import UserFold
from services.features.feast import OnlineSink, StoreGuard, epoch_of
from services.features.meters import Meters
from services.online.keys import entity_keys, epoch_key
from services.online.reader import MatrixReader, Read
from services.online.wire import Endpoint
from tests.features.makers import START, Row, event, feature, message, tick, view_of

pytestmark = pytest.mark.pipeline

COUNT = feature("count", value_type="INT64")
MEAN = feature("mean", "price", "FLOAT32", name="m")


class Store:
    """A fold, its sink and its guard on one project of a real server."""

    def __init__(self, url: str, project: str) -> None:
        self.client, self.project = redis.asyncio.from_url(url), project
        self.reader = MatrixReader(Endpoint.from_url(url))
        meters = Meters(Metrics("features", CollectorRegistry()))
        self.sink = OnlineSink(self.client, project, meters, ManualClock(START))
        self.guard = StoreGuard(self.client, project, meters)
        self.fold = UserFold([view_of(COUNT, MEAN)], 0, 1)
        self._offset = 0

    async def step(self, *rows: Row) -> None:
        """Fold one message and store what follows."""
        out = self.fold.apply([message(self._offset, rows)])
        self._offset += 1
        for view in out.views:
            if not await self.sink.write(view, epoch_of(self.fold, view.view)):
                self.fold.views[view.view].publish_all()

    async def counts(self, *users: str) -> list[float | None]:
        """What a reader finds."""
        read = Read("stats", entity_keys(self.project, ("user_id",), users), numeric=("f", "m", "_pos"))
        (rows,) = await self.reader.read([read], timeout_s=5, now_us=START)
        return [None if value != value else value for value in rows.matrix[:, 0].tolist()]

    async def epoch(self) -> int | None:
        """The view's epoch in the store."""
        stored = await self.client.get(epoch_key(self.project, "stats"))
        return None if stored is None else int(stored)


@pytest.fixture
async def store(redis: Redis, unique: Callable[[str], str]) -> AsyncIterator[Store]:
    """A store of this test alone."""
    store = Store(redis.url, unique("shop"))
    yield store
    await store.client.aclose()
    await store.reader.close()


async def test_values_are_read_as_they_were_written(store: Store) -> None:
    await store.step(event(START, price=2.0), event(START + 1, price=4.0), event(START, user="u2"))
    assert await store.counts("u1", "u2", "u3") == [2.0, 1.0, None]


async def test_the_first_epoch_is_raised_when_everything_is_written(store: Store) -> None:
    await store.step(event(START))
    await store.guard.check([store.fold])
    assert await store.epoch() is None
    await store.step(tick(START + 1))
    await store.guard.check([store.fold])
    assert await store.epoch() == 1
    assert epoch_of(store.fold, "stats") == 1


async def test_a_store_that_lost_its_data_gets_everything_again(store: Store) -> None:
    await store.step(event(START), event(START, user="u2"))
    for step in range(2):
        await store.guard.check([store.fold])
        await store.step(tick(START + step))
    keys = [key async for key in store.client.scan_iter(f"*{store.project}*")]
    await store.client.delete(*keys)
    assert await store.counts("u1", "u2") == [None, None]
    for step in range(2):
        await store.guard.check([store.fold])
        await store.step(tick(START + 5 + step))
    await store.guard.check([store.fold])
    assert await store.counts("u1", "u2") == [1.0, 1.0]
    assert await store.epoch() == 2


async def test_a_fold_whose_epoch_was_raised_by_another_worker_writes_everything_again(store: Store) -> None:
    await store.step(event(START), event(START, user="u2"))
    store.fold.marks["stats"] = [1, "run"]
    await store.client.set(epoch_key(store.project, "stats"), 5)
    await store.step(event(START + 1))
    assert await store.counts("u1") == [1.0]
    await store.guard.check([store.fold])
    await store.step(tick(START + 2))
    assert await store.counts("u1", "u2") == [2.0, 1.0]
    assert epoch_of(store.fold, "stats") == 5


async def test_an_older_write_changes_nothing(store: Store) -> None:
    older = store.fold.apply([message(0, [event(START)])]).views[0]
    newer = store.fold.apply([message(1, [event(START + 1)])]).views[0]
    await store.sink.write(newer, 1)
    await store.sink.write(older, 1)
    assert await store.counts("u1") == [2.0]
