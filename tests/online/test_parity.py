"""What the reader says equals the stock SDK on every value: each type, null, absent, old."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest
import redis
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.online.decode import python_value
from services.online.encode import Column, Kind
from services.online.keys import entity_keys
from services.online.reader import MatrixReader, Read
from services.online.writer import Batch, MatrixWriter, Packer
from tests.online.conftest import Server
from tests.online.shop import ALL_KINDS, PROJECT, Shop, at, open_shop
from tests.online.values import of_kind, same, to_proto

pytestmark = pytest.mark.pipeline

NUMERIC = tuple(n for n, k in ALL_KINDS.items() if not k.is_list and k not in (Kind.STRING, Kind.BYTES))
NAMES = ("a", "b", "c", "d")
ABSENT = "never written"
row_values = st.fixed_dictionaries({name: st.none() | of_kind(kind) for name, kind in ALL_KINDS.items()})
tables = st.lists(row_values, min_size=len(NAMES), max_size=len(NAMES))
examples = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def everything(ttl_us: int | None = None) -> Read:
    keys = entity_keys(PROJECT, ("item_id",), [*NAMES, ABSENT])
    return Read("everything", keys, NUMERIC, tuple(ALL_KINDS), (("float32_list", 3),), ttl_us)


async def assert_equal_to_sdk(shop: Shop, reader: MatrixReader) -> None:
    [rows] = await reader.read([everything()], timeout_s=5, now_us=0)
    sdk = shop.get([*NAMES, ABSENT], list(ALL_KINDS))
    for name in ALL_KINDS:
        expected = [_plain(value) for value in sdk[name]]
        assert all(map(same, rows.objects[name], expected)), name
    with np.errstate(over="ignore"):
        numbers = [[np.nan if v is None else np.float32(_plain(v)) for v in sdk[name]] for name in NUMERIC]
    np.testing.assert_array_equal(rows.matrix, np.array(numbers, np.float32).T)
    lists = [value if value is not None and len(value) == 3 else None for value in sdk["float32_list"]]
    assert rows.packed_mask["float32_list"].tolist() == [value is not None for value in lists]
    np.testing.assert_array_equal(rows.packed["float32_list"], np.array([v or [0.0] * 3 for v in lists], np.float32))
    assert rows.present.tolist() == [True] * len(NAMES) + [False]


def _plain(value: Any) -> Any:
    """The SDK gives timestamps as datetimes, the reader as seconds."""
    if isinstance(value, datetime):
        return round(value.timestamp())
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


@examples
@given(table=tables)
async def test_what_the_sdk_wrote_is_read_as_the_sdk_reads_it(
    shop: Shop, client: redis.Redis, reader: MatrixReader, table: list[dict[str, Any]]
) -> None:
    client.flushall()
    protos = [{name: to_proto(kind, row[name]) for name, kind in ALL_KINDS.items()} for row in table]
    shop.push([(name, values, at(i)) for i, (name, values) in enumerate(zip(NAMES, protos, strict=True))])
    await assert_equal_to_sdk(shop, reader)


@examples
@given(table=tables)
async def test_what_the_writer_wrote_is_read_by_the_sdk(
    shop: Shop, client: redis.Redis, reader: MatrixReader, table: list[dict[str, Any]]
) -> None:
    client.flushall()
    writer = MatrixWriter(client, Packer(PROJECT, "everything", ["item_id"], ALL_KINDS, chunk_rows=3))
    columns = {name: Column([row[name] for row in table]) for name in ALL_KINDS}
    n = len(table)
    batch = Batch([NAMES], columns, np.arange(n) + 1_770_000_000_000_001, 1, np.arange(n, dtype=np.uint64))
    assert writer.write(batch).written == n
    sdk = shop.get(list(NAMES), list(ALL_KINDS))
    for name in ALL_KINDS:
        assert all(same(_plain(v), row[name]) for v, row in zip(sdk[name], table, strict=True)), name
    await assert_equal_to_sdk(shop, reader)


async def test_the_bytes_stored_equal_stock_feast(
    shop: Shop, client: redis.Redis, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stock = open_shop(tmp_path_factory.mktemp("stock"), f"{server.host}:{server.port}", "redis")
    values = {name: to_proto(kind, None) for name, kind in ALL_KINDS.items()}
    values["float32"] = to_proto(Kind.FLOAT32, 2.5)
    stock.push([("a", values, at(0.5))])
    [key] = client.keys()
    expected = client.hgetall(key)
    client.flushall()
    shop.push([("a", values, at(0.5))])
    stored = client.hgetall(key)
    assert len(stored.pop(b"_ord:everything")) == 12
    assert stored == expected


async def test_several_join_keys_are_found_in_any_order(shop: Shop, client: redis.Redis, reader: MatrixReader) -> None:
    writer = MatrixWriter(
        client, Packer(PROJECT, "affinity", ["user_id", "category"], {"clicks": Kind.INT64, "score": Kind.FLOAT32})
    )
    columns = {"clicks": Column(np.array([4, 5])), "score": Column(np.array([0.5, 1.5]))}
    writer.write(Batch([[1, -2], ["x", "y"]], columns, np.array([1, 2]), 1, np.array([1, 2], np.uint64)))
    entity_rows = [{"category": "y", "user_id": -2}, {"category": "x", "user_id": 1}]
    sdk = shop.store.get_online_features(["affinity:clicks", "affinity:score"], entity_rows).to_dict()
    assert (sdk["clicks"], sdk["score"]) == ([5, 4], [1.5, 0.5])
    keys = entity_keys(PROJECT, ("category", "user_id"), ["y", "x"], [-2, 1])
    [rows] = await reader.read([Read("affinity", keys, ("clicks", "score"))], timeout_s=5, now_us=0)
    assert rows.matrix.tolist() == [[5.0, 1.5], [4.0, 0.5]]


async def test_the_sdk_never_applies_a_ttl_and_the_reader_does_when_it_is_given_one(
    shop: Shop, reader: MatrixReader
) -> None:
    values = {name: to_proto(kind, None) for name, kind in ALL_KINDS.items()}
    old, new = {**values, "float32": to_proto(Kind.FLOAT32, 1.0)}, {**values, "float32": to_proto(Kind.FLOAT32, 2.0)}
    shop.push([("a", old, at(0)), ("b", new, at(60))])
    assert shop.get(["a", "b", ABSENT], ["float32"])["float32"] == [1.0, 2.0, None]  # in 2026, of a view with ttl 1 day
    now_us, ttl_us = int(at(90).timestamp() * 1e6), 89_999_999
    [kept] = await reader.read([everything(ttl_us + 1)], timeout_s=5, now_us=now_us)
    [rows] = await reader.read([everything(ttl_us)], timeout_s=5, now_us=now_us)
    assert not kept.expired.any()
    assert rows.expired.tolist() == [True, False, False, False, False]
    assert rows.objects["float32"] == [None, 2.0, None, None, None]
    assert np.isnan(rows.matrix[0]).all()
    assert rows.matrix[1, NUMERIC.index("float32")] == 2.0
    assert rows.event_us.tolist() == [int(at(s).timestamp() * 1e6) for s in (0, 60)] + [0, 0, 0]


def test_the_sdk_calls_every_cell_present(shop: Shop) -> None:
    shop.push([("a", {"float32": to_proto(Kind.FLOAT32, None)}, at(0))])
    answer = shop.store.get_online_features(["everything:float32"], [{"item_id": "a"}, {"item_id": ABSENT}]).proto
    assert set(answer.results[-1].statuses) == {FieldStatus.PRESENT}
    assert python_value(answer.results[-1].values[1].SerializeToString()) is None
