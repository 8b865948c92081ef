"""Values reach the online store in order, and all of them again when the store has lost them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry

from services.common.clock import ManualClock
from services.common.metrics import Metrics
from services.common.records import Message
from services.demo.redis import Redis
from services.features.archive import FeatureArchive
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.feast import OnlineSink, StoreGuard, epoch_of
from services.features.kafka import Pace, UserStage
from services.features.meters import Meters
from services.online.keys import entity_keys, epoch_key
from services.online.reader import MatrixReader, Read
from services.online.wire import Endpoint
from tests.features.makers import START, Row, event, feature, message, tick, view_of
from tests.features.test_pickup import never, plan_of

pytestmark = pytest.mark.pipeline

COUNT = feature("count", value_type="INT64")
MEAN = feature("mean", "price", "FLOAT32", name="m")


class Outbox:
    """Sends nothing."""

    def send(self, topic: str, value: bytes | None, **_: object) -> "asyncio.Future[tuple[int, int]]":
        """Acknowledged at once."""
        future: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        future.set_result((0, 0))
        return future


class Log:
    """A log that has ended where the fold is."""

    def end(self, topic: str, partition: int) -> int:
        """Its end."""
        return 0


class Store:
    """A stage with one fold, and its guard, on one project of a real server."""

    def __init__(self, url: str, project: str, folder: Path) -> None:
        self.client, self.project = redis.asyncio.from_url(url), project
        self.reader = MatrixReader(Endpoint.from_url(url))
        meters = Meters(Metrics("features", CollectorRegistry()))
        clock = ManualClock(START)
        self.sink = OnlineSink(self.client, project, meters, clock)
        self.guard = StoreGuard(self.client, project, meters)
        archive = FeatureArchive(folder, clock, roll_rows=0, roll_us=1)
        self._stage: Any = UserStage(
            1, Pace(0), Outbox(), 5000, lambda: plan_of(COUNT, MEAN), never, self.sink, archive, meters, Log()
        )
        self._timed = self._stage.open(0, None)
        self.fold = self._timed.fold
        self._offset = 0

    async def step(self, *rows: Row) -> None:
        """Fold one message and store what follows."""
        out = self._timed.apply([message(self._offset, rows)])
        self._offset += 1
        await self._stage.emit(0, out)

    async def check(self) -> None:
        """Let the guard look once."""
        await self.guard.check([self.fold])

    async def counts(self, *users: str) -> list[float | None]:
        """What a reader finds."""
        read = Read("stats", entity_keys(self.project, ("user_id",), users), numeric=("f", "m", "_pos"))
        (rows,) = await self.reader.read([read], timeout_s=5, now_us=START)
        return [None if value != value else value for value in rows.matrix[:, 0].tolist()]

    async def epoch(self) -> int | None:
        """The view's epoch in the store."""
        stored = await self.client.get(epoch_key(self.project, "stats"))
        return None if stored is None else int(stored)

    async def lose(self, keep_epoch: bool = False) -> None:
        """Delete everything of this project."""
        keys = [key async for key in self.client.scan_iter(f"*{self.project}*")]
        gone = [key for key in keys if not keep_epoch or b"epoch" not in key]
        await self.client.delete(*gone)


@pytest.fixture
async def store(redis: Redis, unique: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Store]:
    """A store of this test alone."""
    store = Store(redis.url, unique("shop"), tmp_path)
    yield store
    await store.client.aclose()
    await store.reader.close()


async def opened(store: Store) -> None:
    """Two shoppers stored, the view's epoch raised."""
    await store.step(event(START), event(START, user="u2"))
    await store.check()
    await store.step(tick(START + 1))
    await store.check()
    assert await store.epoch() == 1


async def test_values_are_read_as_they_were_written(store: Store) -> None:
    await store.step(event(START, price=2.0), event(START + 1, price=4.0), event(START, user="u2"))
    assert await store.counts("u1", "u2", "u3") == [2.0, 1.0, None]


async def test_the_first_epoch_is_raised_when_everything_is_written(store: Store) -> None:
    await opened(store)
    assert epoch_of(store.fold, "stats") == 1


async def test_a_store_that_lost_its_data_gets_everything_again_before_its_epoch(store: Store) -> None:
    await opened(store)
    await store.lose()
    for _ in range(2):
        await store.check()
        assert (await store.epoch(), await store.counts("u1", "u2")) == (None, [None, None])
    await store.step(tick(START + 2))
    store.fold.writing = True
    await store.check()
    assert await store.epoch() is None
    store.fold.writing = False
    await store.check()
    assert (await store.epoch(), await store.counts("u1", "u2")) == (2, [1.0, 1.0])


async def test_a_fold_that_sees_another_epoch_writes_everything_again(store: Store) -> None:
    await opened(store)
    await store.lose(keep_epoch=True)
    await store.client.set(epoch_key(store.project, "stats"), 5)
    await store.check()
    await store.step(tick(START + 2))
    assert await store.counts("u1", "u2") == [1.0, 1.0]
    assert epoch_of(store.fold, "stats") == 5


async def test_a_fold_that_sees_another_run_of_the_server_writes_everything_again(store: Store) -> None:
    await opened(store)
    await store.lose(keep_epoch=True)
    store.fold.marks["stats"] = [1, "an earlier run"]
    await store.check()
    await store.step(tick(START + 2))
    assert await store.counts("u1", "u2") == [1.0, 1.0]


async def test_a_write_that_was_fenced_off_is_made_again(store: Store) -> None:
    await opened(store)
    await store.client.set(epoch_key(store.project, "stats"), 5)
    await store.step(event(START + 2))
    assert await store.counts("u1") == [1.0]
    store.fold.marks["stats"] = [5, store.fold.marks["stats"][1]]
    await store.step(tick(START + 3))
    assert await store.counts("u1", "u2") == [2.0, 1.0]


async def test_nothing_is_written_again_without_a_reason(store: Store) -> None:
    await opened(store)
    await store.lose(keep_epoch=True)
    await store.check()
    await store.step(tick(START + 2))
    assert await store.counts("u1", "u2") == [None, None]


async def test_an_older_write_changes_nothing(store: Store) -> None:
    older = store.fold.apply([message(0, [event(START)])]).views[0]
    newer = store.fold.apply([message(1, [event(START + 1)])]).views[0]
    await store.sink.write(newer, 1)
    await store.sink.write(older, 1)
    assert await store.counts("u1") == [2.0]


async def test_the_store_lets_go_of_a_query_that_nobody_asks_any_more(store: Store) -> None:
    by_query = feature("count", value_type="INT64", view="queries", join_keys=("query",))
    sent = UserFold([], 0, 1).apply([message(0, [event(START, query="red")])])
    views = ItemFold([view_of(by_query)]).apply([Message(0, sent.items[0][0])]).views
    for rows in (*views, *store.fold.apply([message(0, [event(START)])]).views):
        await store.sink.write(rows, 1)
    keys = [entity_keys(store.project, names, [word])[0] for names, word in ((("query",), "red"), (("user_id",), "u1"))]
    assert await store.client.ttl(keys[0]) > 30 * 24 * 3600
    assert await store.client.ttl(keys[1]) == -1
