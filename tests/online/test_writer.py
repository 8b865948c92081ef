"""The writer: order is (epoch, seq), whatever the event time and whoever writes."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.common.errors import InvalidInput, TemporaryError
from services.online.encode import Column, Kind
from services.online.epochs import Epochs
from services.online.erase import erase_entities_async, erase_view_async
from services.online.failures import StoreRefused
from services.online.keys import Order, entity_key, feature_field, pack_order
from services.online.writer import AsyncMatrixWriter, Batch, MatrixWriter, Packer, WriteResult
from tests.online.conftest import free_port, running_redis
from tests.online.shop import PROJECT

pytestmark = pytest.mark.pipeline

VIEW = "stats"
rounds = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def packer(**settings: int) -> Packer:
    return Packer(PROJECT, VIEW, ["item_id"], {"price": Kind.FLOAT32, "name": Kind.STRING}, **settings)


def batch(names: list[str], prices: list[float], seqs: list[int], epoch: int = 1, event_us: int = 10**15) -> Batch:
    columns = {"price": Column(np.array(prices, np.float32))}
    return Batch([names], columns, np.full(len(names), event_us), epoch, np.array(seqs, np.uint64))


def price(client: redis.Redis, name: str) -> float | None:
    cell = client.hget(entity_key(PROJECT, ("item_id",), (name,)), feature_field(VIEW, "price"))  # type: ignore[arg-type]
    return None if cell is None else float(np.frombuffer(cell[1:], "<f4")[0])


def order(client: redis.Redis, name: str) -> bytes | None:
    found: bytes | None = client.hget(entity_key(PROJECT, ("item_id",), (name,)), f"_ord:{VIEW}")  # type: ignore
    return found


@pytest.fixture
def writer(client: redis.Redis) -> MatrixWriter:
    return MatrixWriter(client, packer())


def test_a_lower_order_is_dropped_an_equal_one_is_written_again_a_higher_one_wins(
    client: redis.Redis, writer: MatrixWriter
) -> None:
    assert writer.write(batch(["a"], [5.0], [5])) == WriteResult(1, 0, fenced=False, epoch_missing=True)
    assert writer.write(batch(["a"], [4.0], [4])) == WriteResult(0, 1, fenced=False, epoch_missing=True)
    assert price(client, "a") == 5.0
    assert writer.write(batch(["a"], [5.5], [5])).written == 1
    assert price(client, "a") == 5.5
    assert writer.write(batch(["a"], [6.0], [6], event_us=1)).written == 1  # an older event time does not matter
    assert (price(client, "a"), order(client, "a")) == (6.0, pack_order(Order(1, 6)))


EDGES = [0, 1, 127, 128, 255, 256, 2**31, 2**32 - 1]
SEQS = [*EDGES, 2**32, 2**53, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1]
order_pairs = st.tuples(
    st.sampled_from(EDGES) | st.integers(0, 2**32 - 1), st.sampled_from(SEQS) | st.integers(0, 2**64 - 1)
)


@rounds
@given(st.lists(order_pairs, min_size=2, max_size=6))
def test_orders_are_compared_exactly_over_their_whole_range(
    client: redis.Redis, writer: MatrixWriter, pairs: list[tuple[int, int]]
) -> None:
    client.flushall()
    for epoch, seq in pairs:
        writer.write(batch(["a"], [0.0], [seq], epoch))
    assert order(client, "a") == pack_order(Order(*max(pairs)))


@rounds
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=40))
def test_the_highest_order_of_a_batch_wins_wherever_it_stands(client: redis.Redis, rows: list[tuple[str, int]]) -> None:
    client.flushall()
    names, seqs = [name for name, _ in rows], [seq for _, seq in rows]
    writer = MatrixWriter(client, packer(chunk_rows=7))
    result = writer.write(batch(names, [float(seq) for seq in seqs], seqs))
    assert result.written + result.dropped == len(rows)
    for name in set(names):
        assert price(client, name) == max(seq for other, seq in rows if other == name)


def test_two_writers_of_ten_thousand_shuffled_rows_leave_no_stale_value(client: redis.Redis) -> None:
    numbers = list(range(10_000))
    random.Random(7).shuffle(numbers)
    batches = [numbers[start : start + 20] for start in range(0, len(numbers), 20)]

    def write(half: list[list[int]]) -> int:
        writer = MatrixWriter(client, packer())
        batches = (batch([f"i{n % 100}" for n in part], [float(n) for n in part], part) for part in half)
        return sum(writer.write(made).dropped for made in batches)

    with ThreadPoolExecutor(2) as pool:
        dropped = sum(pool.map(write, [batches[::2], batches[1::2]]))
    assert [price(client, f"i{n}") for n in range(100)] == [9_900.0 + n for n in range(100)]
    assert dropped > 0


def test_a_rollback_raises_the_epoch_and_writes_old_values_again(client: redis.Redis, writer: MatrixWriter) -> None:
    epochs = Epochs(client, PROJECT)
    epochs.raise_to(VIEW, 1)
    writer.write(batch(["a"], [9.0], [900]))
    epochs.raise_to(VIEW, 2)
    assert writer.write(batch(["a"], [1.0], [100], epoch=2)) == WriteResult(1, 0, fenced=False, epoch_missing=False)
    assert price(client, "a") == 1.0


def test_a_writer_of_an_older_epoch_is_fenced_off_even_where_nothing_newer_is_stored(
    client: redis.Redis, writer: MatrixWriter
) -> None:
    writer.write(batch(["a"], [1.0], [1]))
    Epochs(client, PROJECT).raise_to(VIEW, 2)
    result = writer.write(batch(["a", "b"], [2.0, 2.0], [2, 2]))
    assert result == WriteResult(0, 2, fenced=True, epoch_missing=False)
    assert (price(client, "a"), price(client, "b")) == (1.0, None)


def test_a_script_redis_has_forgotten_is_loaded_again(client: redis.Redis, writer: MatrixWriter) -> None:
    for seq in (1, 2):
        client.script_flush()
        assert writer.write(batch(["a"], [float(seq)], [seq])).written == 1
    assert price(client, "a") == 2.0


def test_many_chunks_are_written_in_order(client: redis.Redis) -> None:
    writer = MatrixWriter(client, packer(chunk_rows=3))
    names = [f"i{n}" for n in range(500)]
    assert writer.write(batch(names, [float(n) for n in range(500)], [1] * 500)).written == 500
    assert [price(client, name) for name in names] == [float(n) for n in range(500)]


def test_an_empty_batch_writes_nothing(writer: MatrixWriter) -> None:
    assert writer.write(batch([], [], [])) == WriteResult(0, 0, fenced=False, epoch_missing=False)


def test_columns_left_out_keep_their_values(client: redis.Redis, writer: MatrixWriter) -> None:
    writer.write(batch(["a"], [1.0], [1]))
    names = Batch([["a"]], {"name": Column(["x"])}, np.array([2]), 1, np.array([2], np.uint64))
    assert writer.write(names).written == 1
    assert price(client, "a") == 1.0


def test_a_key_lives_as_long_as_it_was_told(client: redis.Redis) -> None:
    MatrixWriter(client, packer(key_ttl_s=100)).write(batch(["a"], [1.0], [1]))
    assert 0 < client.ttl(entity_key(PROJECT, ("item_id",), ("a",))) <= 100


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        pytest.param({"columns": {"colour": Column(["red"])}}, "colour", id="unknown feature"),
        pytest.param({"columns": {"price": Column(["cheap"])}}, "price", id="wrong type"),
        pytest.param({"columns": {"price": Column([1.0, 2.0])}}, "price", id="too many values"),
        pytest.param({"seqs": np.array([1, 2], np.uint64)}, "seqs", id="too many seqs"),
        pytest.param({"event_us": np.array([-1])}, "event_us", id="before 1970"),
        pytest.param({"epoch": 2**32}, "epoch", id="epoch too large"),
        pytest.param({"entities": [["a"], ["b"]]}, "columns", id="too many join keys"),
        pytest.param({"entities": [[1.5]]}, "join key", id="join key of another type"),
    ],
)
def test_a_batch_that_does_not_fit_names_the_field_and_writes_nothing(
    client: redis.Redis, writer: MatrixWriter, wrong: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        writer.write(replace(batch(["a"], [1.0], [1]), **wrong))  # type: ignore[arg-type]
    assert (caught.value.field, client.dbsize()) == (field, 0)


def test_a_key_that_holds_something_else_is_refused_for_good_and_the_connection_stays_in_step(
    client: redis.Redis, writer: MatrixWriter
) -> None:
    client.set(entity_key(PROJECT, ("item_id",), ("a",)), "text")
    with pytest.raises(StoreRefused):
        writer.write(batch(["a"], [1.0], [1]))
    assert writer.write(batch(["b"], [1.0], [1])).written == 1


def test_a_redis_that_went_away_is_temporary_and_found_again_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
        writer = MatrixWriter(client, packer())
        with running_redis(tmp_path, port):
            writer.write(batch(["a"], [1.0], [1]))
        for _ in range(2):
            with pytest.raises(TemporaryError):
                writer.write(batch(["a"], [2.0], [2]))
        with running_redis(tmp_path, port):
            assert writer.write(batch(["a"], [3.0], [3])) == WriteResult(1, 0, fenced=False, epoch_missing=True)


async def test_asyncio_writes_the_same(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    client.script_flush()
    writer = AsyncMatrixWriter(async_client, packer(chunk_rows=2))
    names = ["a", "b", "c", "d", "e"]
    results = await asyncio.gather(*(writer.write(batch(names, [float(s)] * 5, [s] * 5)) for s in (3, 1, 2)))
    assert sum(result.written + result.dropped for result in results) == 15
    assert [price(client, name) for name in names] == [3.0] * 5


async def test_asyncio_reports_a_refusal_and_stays_in_step(
    client: redis.Redis, async_client: redis.asyncio.Redis
) -> None:
    client.set(entity_key(PROJECT, ("item_id",), ("a",)), "text")
    writer = AsyncMatrixWriter(async_client, packer())
    with pytest.raises(StoreRefused):
        await writer.write(batch(["a"], [1.0], [1]))
    assert (await writer.write(batch(["b"], [1.0], [1]))).written == 1


async def test_asyncio_forgets_entities_and_views(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    await AsyncMatrixWriter(async_client, packer()).write(batch(["a", "b"], [1.0, 2.0], [1, 1]))
    keys = [entity_key(PROJECT, ("item_id",), (name,)) for name in ("a", "b", "c")]
    assert await erase_view_async(async_client, VIEW, ["price"], keys[:1]) == 1
    assert await erase_entities_async(async_client, keys) == 1
    assert client.dbsize() == 0
