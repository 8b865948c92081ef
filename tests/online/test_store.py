"""The Feast store: what comes through the SDK is ordered too, and can be taken out again."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
import redis
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidInput
from services.online.encode import Column, Kind
from services.online.epochs import Epochs
from services.online.keys import entity_key
from services.online.writer import Batch, MatrixWriter, Packer
from tests.online.conftest import Server
from tests.online.shop import OURS, PROJECT, Shop, at, item, open_shop

pytestmark = pytest.mark.pipeline


def value(number: float) -> dict[str, Value]:
    return {"float32": Value(float_val=number)}


def stored(shop: Shop, name: str = "a") -> float | None:
    number: float | None = shop.get([name], ["float32"])["float32"][0]
    return number


def test_frames_written_by_the_sdk_are_read_by_the_sdk(shop: Shop) -> None:
    frame = pd.DataFrame({"user_id": [7], "category": ["x"], "clicks": [3], "score": [0.5], "event_time": [at(0)]})
    shop.store.write_to_online_store("affinity", frame)
    answer = shop.store.get_online_features(["affinity:clicks"], [{"user_id": 7, "category": "x"}]).to_dict()
    assert answer["clicks"] == [3]


def test_frames_written_by_the_async_sdk_are_read_by_the_async_sdk(shop: Shop) -> None:
    async def both() -> list[float | None]:
        await shop.online.online_write_batch_async(
            shop.config, shop.everything, [(item("a"), value(1.0), at(0), None)], None
        )
        answer = await shop.store.get_online_features_async(["everything:float32"], [{"item_id": "a"}])
        await shop.store.close()
        found: list[float | None] = answer.to_dict()["float32"]
        return found

    assert asyncio.run(both()) == [1.0]


def test_an_older_push_is_dropped_and_counted(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    before = shop.online.dropped
    shop.push([("a", value(9.0), at(10))])
    shop.push([("a", value(1.0), at(0))])
    assert (stored(shop), shop.online.dropped - before) == (9.0, 1)
    assert "1 of the rows pushed to everything" in caplog.text


def test_an_equal_event_time_is_written_again(shop: Shop) -> None:
    """Stock Feast skips it without an error: of two changes within one instant the first would stay."""
    for number in range(50):
        shop.push([("a", value(number), at(0))])
    assert stored(shop) == 49.0


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), min_size=1))
def test_the_latest_row_of_a_batch_wins_wherever_it_stands(
    shop: Shop, client: redis.Redis, rows: list[tuple[str, int]]
) -> None:
    client.flushall()
    shop.push([(name, value(second), at(second)) for name, second in rows])
    for name in {name for name, _ in rows}:
        assert stored(shop, name) == max(second for other, second in rows if other == name)


def stale_after_a_race(folder: Path, server: Server, store_type: str) -> int:
    """Two writers push 5,000 keys each at the same time, at random the one or the other the newer value."""
    shops = [open_shop(folder, f"{server.host}:{server.port}", store_type) for _ in range(2)]
    names, chosen, barrier = [f"i{n}" for n in range(5_000)], random.Random(7), Barrier(2)
    newer = [chosen.randrange(2) for _ in names]

    def write(me: int) -> None:
        for start in range(0, len(names), 50):
            versions = [(names[n], float(newer[n] == me)) for n in range(start, start + 50)]
            chosen.shuffle(versions)
            barrier.wait(10)
            shops[me].push([(name, value(version), at(version)) for name, version in versions])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    return shops[0].get(names, ["float32"])["float32"].count(0.0)


def test_of_ten_thousand_writes_by_two_writers_none_is_lost_to_an_older_one(
    client: redis.Redis, server: Server, tmp_path: Path
) -> None:
    assert stale_after_a_race(tmp_path, server, OURS) == 0


def test_the_race_is_real_stock_feast_loses_newer_values_in_it(
    client: redis.Redis, server: Server, tmp_path: Path
) -> None:
    """It reads the stored time, then writes: what the other writer stored between the two gets lost."""
    assert stale_after_a_race(tmp_path, server, "redis") > 0


def test_a_rollback_by_pushing_old_values_again_works_once_the_epoch_is_raised(
    client: redis.Redis, server: Server, tmp_path: Path
) -> None:
    shop = open_shop(tmp_path, f"{server.host}:{server.port}", OURS, sdk_epoch="current")
    shop.push([("a", value(1.0), at(0))])
    shop.push([("a", value(9.0), at(10))])
    shop.push([("a", value(1.0), at(0)), ("a", value(5.0), at(10))])
    assert stored(shop) == 5.0  # the equal one only
    Epochs(client, PROJECT).raise_to("everything", 1)
    shop.push([("a", value(1.0), at(0))])
    assert stored(shop) == 1.0


def test_a_push_never_replaces_what_a_service_wrote_in_explicit_order(shop: Shop, client: redis.Redis) -> None:
    """Its order is an event time in microseconds: taken as a sequence number it would block the service for ever."""
    writer = MatrixWriter(client, Packer(PROJECT, "everything", ["item_id"], {"float32": Kind.FLOAT32}))

    def write(names: list[str], number: float, seq: int) -> None:
        column = {"float32": Column(np.full(len(names), number, np.float32))}
        writer.write(Batch([names], column, np.full(len(names), 5), 1, np.full(len(names), seq, np.uint64)))

    write(["a"], 1.0, 10)
    shop.push([("a", value(9.0), at(0)), ("b", value(9.0), at(0))])
    assert (stored(shop, "a"), stored(shop, "b")) == (1.0, 9.0)
    write(["a", "b"], 2.0, 11)
    assert (stored(shop, "a"), stored(shop, "b")) == (2.0, 2.0)


def test_rows_of_one_batch_may_carry_different_features(shop: Shop) -> None:
    shop.push([("a", value(1.0), at(0)), ("b", {"string": Value(string_val="x")}, at(0))])
    assert shop.get(["a", "b"], ["float32", "string"]) == {
        "item_id": ["a", "b"],
        "float32": [1.0, None],
        "string": [None, "x"],
    }


def test_forgetting_an_entity_deletes_all_of_it_and_nothing_else(shop: Shop, client: redis.Redis) -> None:
    shop.push([("a", value(1.0), at(0)), ("b", value(2.0), at(0))])
    assert shop.online.delete_entity(shop.config, ["item_id"], ["a"])
    assert not shop.online.delete_entity(shop.config, ["item_id"], ["a"])
    assert client.keys() == [entity_key(PROJECT, ("item_id",), ("b",))]


def test_deleting_one_views_values_leaves_the_other_view(shop: Shop, client: redis.Redis) -> None:
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(string_val="a")])
    other = shop.store.get_feature_view("everything")
    other.name = "other"
    for view in (shop.everything, other):
        shop.online.online_write_batch(shop.config, view, [(key, value(1.0), at(0), None)], None)
    assert shop.online.delete_view_values(shop.config, other, ["item_id"], ["a"])
    assert not shop.online.delete_view_values(shop.config, other, ["item_id"], ["a"])
    assert stored(shop) == 1.0
    assert {b"_ts:everything", b"_ord:everything"} < set(client.hkeys(client.keys()[0]))
    assert len(client.hkeys(client.keys()[0])) == 3


def test_removing_a_view_deletes_its_values_and_orders(shop: Shop, client: redis.Redis) -> None:
    shop.push([(f"i{number}", value(number), at(0)) for number in range(1_200)])
    shop.online.delete_table(shop.config, shop.everything)
    assert client.dbsize() == 0


def test_a_teardown_keeps_projects_whose_name_ends_alike(shop: Shop, client: redis.Redis) -> None:
    """Stock Feast searches for keys that end with the project's name: `shop` would take `workshop` along."""
    kept = entity_key("workshop", ("item_id",), ("a",))
    client.hset(kept, "f", "v")
    shop.push([("a", value(1.0), at(0))])
    shop.online.teardown(shop.config, [shop.everything], [])
    assert client.keys() == [kept]


def test_a_join_key_whose_length_is_a_wildcard_is_found(shop: Shop, client: redis.Redis) -> None:
    name = "k" * ord("[")
    client.hset(entity_key(PROJECT, (name,), ("a",)), "f", "v")
    shop.online.delete_entity_values(shop.config, [name])
    assert client.dbsize() == 0


def test_a_key_lives_as_long_as_the_settings_say(client: redis.Redis, server: Server, tmp_path: Path) -> None:
    shop = open_shop(tmp_path, f"{server.host}:{server.port}", OURS, key_ttl_seconds=100)
    shop.push([("a", value(1.0), at(0))])
    assert 0 < client.ttl(client.keys()[0]) <= 100


@pytest.mark.parametrize("wrong", [{"skip_dedup": True}, {"redis_type": "redis_cluster"}])
def test_settings_that_break_the_order_are_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        open_shop(tmp_path, "127.0.0.1:1", OURS, **wrong)


def test_a_time_before_1970_is_refused(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="1970"):
        shop.push([("a", value(1.0), datetime(1969, 1, 1))])  # noqa: DTZ001 Feast takes naive times for UTC
