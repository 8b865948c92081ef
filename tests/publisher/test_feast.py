"""Rows in a real Redis, read back as gateways read them."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import redis as client

from services.common.errors import PermanentError
from services.demo.redis import Redis
from services.online.keys import entity_keys
from services.online.reader import MatrixReader, Read
from services.online.reader import Rows as ReadRows
from services.online.wire import Endpoint
from services.publisher.book import Book, Lane, beyond
from services.publisher.feast import FeastRows
from services.publisher.table import Rows

pytestmark = pytest.mark.pipeline

NOBODY = Rows.of([], np.zeros((0, 4), np.float32), 0, 0)


class Shelf:
    """A project of its own in the shared Redis."""

    def __init__(self, redis: Redis, project: str) -> None:
        self.url, self.project = redis.url, project
        self.client = client.Redis.from_url(redis.url)
        self.announced: list[tuple[str, tuple[str, ...]]] = []
        self.rows = FeastRows(self.client, project, lambda lane, rows: self.announced.append((lane.slot, rows.ids)))

    async def read(self, view: str, key: str, ids: list[str]) -> ReadRows:
        """As the gateway does."""
        reader = MatrixReader(Endpoint.from_url(self.url))
        wanted = Read(view, entity_keys(self.project, (key,), ids), packed=(("row", 4),))
        (found,) = await reader.read([wanted], timeout_s=5, now_us=0)
        await reader.close()
        return found


@pytest.fixture
def shelf(redis: Redis, unique: Callable[[str], str]) -> Iterator[Shelf]:
    made = Shelf(redis, unique("shop"))
    yield made
    made.client.close()


def some(ids: list[str], value: float, seq: int) -> Rows:
    return Rows.of(ids, np.full((len(ids), 4), value, np.float32), seq, 5_000_000)


async def test_rows_are_read_as_they_were_pushed(shelf: Shelf) -> None:
    lane = Lane()
    shelf.rows.open(lane)
    assert shelf.rows.push(lane, some(["shoe", "hat"], 1.5, 7), some(["ann"], 2.5, 7))
    found = await shelf.read("item_row_a", "item_id", ["shoe", "hat", "sock"])
    assert found.packed["row"][:, 0].tolist() == [1.5, 1.5, 0.0]
    assert found.packed_mask["row"].tolist() == [True, True, False]
    assert (found.epoch[:2].tolist(), found.seq[:2].tolist()) == ([1, 1], [7, 7])
    assert found.event_us[0] == 5_000_000
    assert (await shelf.read("user_row_a", "user_id", ["ann"])).packed["row"][0, 0] == 2.5
    assert shelf.announced == [("a", ("shoe", "hat"))]


async def test_an_older_row_never_replaces_a_newer_one(shelf: Shelf) -> None:
    lane = Lane()
    shelf.rows.open(lane)
    shelf.rows.push(lane, some(["shoe"], 2.0, 9), NOBODY)
    shelf.rows.push(lane, some(["shoe"], 1.0, 8), NOBODY)
    assert (await shelf.read("item_row_a", "item_id", ["shoe"])).packed["row"][0, 0] == 2.0


async def test_a_row_of_zeros_is_taken_away(shelf: Shelf) -> None:
    lane = Lane()
    shelf.rows.open(lane)
    shelf.rows.push(lane, some(["shoe"], 2.0, 1), NOBODY)
    shelf.rows.push(lane, some(["shoe"], 0.0, 2), NOBODY)
    assert not (await shelf.read("item_row_a", "item_id", ["shoe"])).packed_mask["row"][0]


async def test_a_lost_store_shows_and_is_filled_again(shelf: Shelf) -> None:
    lane = Lane()
    assert shelf.rows.lost(lane)
    shelf.rows.open(lane)
    assert not shelf.rows.lost(lane)
    shelf.rows.push(lane, some(["shoe"], 2.0, 1), NOBODY)
    shelf.client.delete(*shelf.client.keys(f"*{shelf.project}*"))
    assert shelf.rows.lost(lane)
    assert not shelf.rows.push(lane, some(["hat"], 3.0, 2), NOBODY)
    shelf.rows.restore(lane, some(["shoe"], 2.0, 1), NOBODY)
    shelf.rows.open(lane)
    assert (await shelf.read("item_row_a", "item_id", ["shoe"])).packed["row"][0, 0] == 2.0


async def test_the_other_slot_has_an_order_of_its_own(shelf: Shelf) -> None:
    one, two = Lane(), Lane().next()
    shelf.rows.open(one)
    shelf.rows.push(one, some(["shoe"], 1.0, 500), NOBODY)
    shelf.rows.open(two)
    shelf.rows.push(two, some(["shoe"], 2.0, 0), NOBODY)
    for slot, value in (("a", 1.0), ("b", 2.0)):
        assert (await shelf.read(f"item_row_{slot}", "item_id", ["shoe"])).packed["row"][0, 0] == value


async def test_an_old_publisher_is_fenced_off(shelf: Shelf) -> None:
    shelf.rows.open(Lane(3, 3, "a"))
    with pytest.raises(PermanentError, match="later epoch"):
        shelf.rows.push(Lane(1, 1, "a"), some(["shoe"], 1.0, 900), NOBODY)
    assert not (await shelf.read("item_row_a", "item_id", ["shoe"])).present[0]


async def test_an_arm_that_takes_over_slots_finds_nothing_of_the_one_before(shelf: Shelf) -> None:
    assert shelf.rows.held("ab") == 0
    before = Lane(epoch=3, slot="b")
    shelf.rows.open(before)
    shelf.rows.push(before, some(["shoe", "hat"], 1.0, 9), NOBODY)
    assert shelf.rows.held("ab") == 3
    lane = beyond(Book("next", learning=Lane(slot="b"), serving=Lane(slot="b")), shelf.rows.held("ab")).learning
    shelf.rows.open(lane)
    assert shelf.rows.push(lane, some(["shoe"], 2.0, 1), NOBODY)
    found = await shelf.read("item_row_b", "item_id", ["shoe", "hat"])
    assert found.packed["row"][0, 0] == 2.0
    assert found.epoch.tolist() == [4, 3]


def test_an_arm_that_has_pushed_rows_keeps_its_epoch() -> None:
    used = Book("next", pushed_seq=1)
    assert beyond(used, 7) == used
    assert beyond(Book("next"), 0) == Book("next")
