"""The reader: many views in one round trip, within a deadline, honest about failures."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import redis
import uvloop

from services.common.errors import CorruptState
from services.common.tls import Tls
from services.online.encode import Column, Kind
from services.online.failures import ReadTimeout, StoreRefused, StoreUnavailable
from services.online.keys import entity_key, entity_keys
from services.online.reader import MatrixReader, Read
from services.online.wire import STALL_S, Endpoint
from services.online.writer import Batch, MatrixWriter, Packer
from tests.online.conftest import Server, free_port, running_redis
from tests.online.shop import PROJECT

pytestmark = pytest.mark.pipeline

ITEM = {"price": Kind.FLOAT32, "clicks": Kind.INT64}
USER = {"last": Kind.STRING_LIST, "row": Kind.FLOAT32_LIST}


def fill(client: redis.Redis, items: int = 3) -> None:
    numbers = np.arange(items)
    item_columns = {"price": Column(numbers / 2), "clicks": Column(numbers)}
    seqs = numbers.astype(np.uint64)
    MatrixWriter(client, Packer(PROJECT, "item", ["item_id"], ITEM)).write(
        Batch([[f"i{n}" for n in numbers]], item_columns, 10**15 + numbers, 4, seqs)
    )
    user_columns = {"last": Column([["i1", "i2"]]), "row": Column(np.ones((1, 4)))}
    MatrixWriter(client, Packer(PROJECT, "user", ["user_id"], USER)).write(
        Batch([["u"]], user_columns, np.array([5]), 7, seqs[:1])
    )


def items(*names: str) -> Read:
    return Read("item", entity_keys(PROJECT, ("item_id",), list(names)), ("price", "clicks"))


USERS = Read("user", [entity_key(PROJECT, ("user_id",), ("u",))], objects=("last",), packed=(("row", 4),))


async def test_views_of_several_entities_come_in_one_round_trip(client: redis.Redis, reader: MatrixReader) -> None:
    fill(client)
    before = client.info("stats")["total_reads_processed"]
    item, user = await reader.read([items("i2", "absent", "i0", "i2"), USERS], timeout_s=5, now_us=0)
    assert client.info("stats")["total_reads_processed"] - before == 2  # ours and that of INFO itself
    np.testing.assert_array_equal(item.matrix, np.array([[1, 2], [np.nan] * 2, [0, 0], [1, 2]], np.float32))
    assert item.present.tolist() == [True, False, True, True]
    assert item.event_us.tolist() == [10**15 + 2, 0, 10**15, 10**15 + 2]
    assert (item.epoch.tolist(), item.seq.tolist()) == ([4, 0, 4, 4], [2, 0, 0, 2])
    assert (user.objects["last"], user.packed["row"].tolist()) == ([["i1", "i2"]], [[1.0] * 4])
    assert (user.matrix.shape, user.epoch.tolist()) == ((1, 0), [7])


async def test_reading_nothing_asks_nothing(reader: MatrixReader) -> None:
    assert await reader.read([], timeout_s=5, now_us=0) == []
    [empty] = await reader.read([Read("item", [], ("price",), ("last",), (("row", 4),))], timeout_s=5, now_us=0)
    assert (empty.matrix.shape, empty.objects, empty.packed["row"].shape) == ((0, 1), {"last": []}, (0, 4))


async def test_tasks_share_the_connection_and_get_their_own_answers(client: redis.Redis, reader: MatrixReader) -> None:
    fill(client, 200)
    before = client.info("stats")["total_connections_received"]
    names = [[f"i{(k * n) % 200}" for n in range(k)] for k in range(1, 60)]
    answers = await asyncio.gather(*(reader.read([items(*part)], timeout_s=5, now_us=0) for part in names))
    for part, [rows] in zip(names, answers, strict=True):
        assert rows.matrix[:, 1].tolist() == [float(name[1:]) for name in part]
    assert client.info("stats")["total_connections_received"] - before == 1


def test_it_runs_on_uvloop(server: Server, client: redis.Redis) -> None:
    fill(client)

    async def read() -> list[list[float]]:
        reader = MatrixReader(Endpoint.from_url(server.url))
        [rows] = await reader.read([items("i1")], timeout_s=5, now_us=0)
        await reader.close()
        found: list[list[float]] = rows.matrix.tolist()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(read()) == [[0.5, 1.0]]


async def test_a_value_of_another_kind_is_corrupt_and_the_connection_stays_in_step(
    client: redis.Redis, reader: MatrixReader
) -> None:
    fill(client)
    with pytest.raises(CorruptState, match="not one number"):
        await reader.read([Read("user", USERS.keys, ("last",))], timeout_s=5, now_us=0)
    [rows] = await reader.read([items("i1")], timeout_s=5, now_us=0)
    assert rows.matrix.tolist() == [[0.5, 1.0]]


async def test_a_key_that_holds_something_else_is_refused_for_good(client: redis.Redis, reader: MatrixReader) -> None:
    client.set(entity_key(PROJECT, ("item_id",), ("a",)), "text")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await reader.read([items("a")], timeout_s=5, now_us=0)


async def test_nobody_listening_is_temporary() -> None:
    with pytest.raises(StoreUnavailable):
        await MatrixReader(Endpoint(port=1)).read([items("a")], timeout_s=5, now_us=0)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[tuple[Server, MatrixReader]]:
    """A server of the test's own, and a reader that knows its password."""
    with running_redis(tmp_path, free_port(), "s p@ce") as server:
        reader = MatrixReader(Endpoint(port=server.port, password="s p@ce", db=3))
        yield server, reader
        await reader.close()


async def test_it_logs_in_and_selects_the_database(own: tuple[Server, MatrixReader]) -> None:
    server, reader = own
    with redis.Redis(port=server.port, password="s p@ce", db=3) as client:
        fill(client)
    [rows] = await reader.read([items("i1")], timeout_s=5, now_us=0)
    assert rows.present.tolist() == [True]


async def test_a_wrong_password_is_permanent(own: tuple[Server, MatrixReader]) -> None:
    stranger = MatrixReader(Endpoint(port=own[0].port, password="guess"))
    with pytest.raises(StoreRefused, match="WRONGPASS"):
        await stranger.read([items("a")], timeout_s=5, now_us=0)


async def test_a_server_that_hangs_costs_no_more_than_the_timeout_and_its_late_answer_is_thrown_away(
    own: tuple[Server, MatrixReader],
) -> None:
    server, reader = own
    with redis.Redis(port=server.port, password="s p@ce", db=3) as client:
        fill(client)
    await reader.read([items("i1")], timeout_s=5, now_us=0)
    server.process.send_signal(signal.SIGSTOP)
    started = asyncio.get_running_loop().time()
    with pytest.raises(ReadTimeout):
        await reader.read([items("i1", "i2")], timeout_s=0.05, now_us=0)
    assert asyncio.get_running_loop().time() - started < 0.5
    server.process.send_signal(signal.SIGCONT)
    [rows] = await reader.read([items("i0")], timeout_s=5, now_us=0)
    assert rows.matrix.tolist() == [[0.0, 0.0]]


async def test_a_connection_that_stays_silent_is_replaced(own: tuple[Server, MatrixReader]) -> None:
    server, reader = own
    await reader.read([items("a")], timeout_s=5, now_us=0)
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ReadTimeout):
        await reader.read([items("a")], timeout_s=0.01, now_us=0)
    late = asyncio.get_running_loop().time() + STALL_S
    while asyncio.get_running_loop().time() <= late:
        with pytest.raises(ReadTimeout):
            await reader.read([items("a")], timeout_s=0.2, now_us=0)
    server.process.send_signal(signal.SIGCONT)
    await reader.read([items("a")], timeout_s=5, now_us=0)
    with redis.Redis(port=server.port, password="s p@ce") as client:
        assert client.info("stats")["total_connections_received"] > 3


async def test_a_killed_server_fails_what_waits_and_is_found_again(tmp_path: Path) -> None:
    port = free_port()
    reader = MatrixReader(Endpoint(port=port))
    with running_redis(tmp_path, port) as server:
        await reader.read([items("a")], timeout_s=5, now_us=0)
        server.process.send_signal(signal.SIGSTOP)
        waiting = [asyncio.ensure_future(reader.read([items("a")], timeout_s=5, now_us=0)) for _ in range(5)]
        await asyncio.sleep(0)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ended] == [StoreUnavailable] * 5
    with running_redis(tmp_path, port):
        assert len(await reader.read([items("a")], timeout_s=5, now_us=0)) == 1
    await reader.close()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://cache", Endpoint("cache")),
        ("redis://:p%40ss@10.0.0.1:7000/2", Endpoint("10.0.0.1", 7000, 2, password="p@ss")),
        ("rediss://ann:x@cache:1", Endpoint("cache", 1, 0, "ann", "x", tls=Tls())),
        ("unix:///run/redis.sock", Endpoint(path="/run/redis.sock")),
    ],
)
def test_an_address_is_understood(url: str, endpoint: Endpoint) -> None:
    assert Endpoint.from_url(url) == endpoint
