"""Reads 1 user and 100 items of 20 float features each from Feast's Redis layout: the stock SDK, floors and ours.

    python -m benchmarks.feast_read [--redis URL] [--json FILE] [--rounds 5] [--calls 100]

Every way reads the same random ids in the same round, in a new order each round. Before anything is timed, ours is
compared with the SDK on every value of many requests, with nulls, absent entities, and both; a difference ends the
run. What the floors leave out: nulls, absent entities, event times, orders, deadlines, other types.
"""

import asyncio
import random
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
import numpy as np
import redis
import uvloop
from feast import FeatureStore

from benchmarks.feast_shop import (
    PROJECT,
    arguments,
    environment,
    features_of,
    open_store,
    ratios,
    redis_at,
    report,
    spread,
)
from services.online.encode import Column, Kind, frame
from services.online.keys import entity_keys, feature_field
from services.online.reader import MatrixReader, Read, Rows
from services.online.wire import Endpoint
from services.online.writer import Batch, MatrixWriter, Packer

ITEMS, USERS, CANDIDATES = 20_000, 2_000, 100
BAR = 8.0
"""Ours must be at least this much faster than the SDK."""

Request = tuple[str, list[str]]
Way = Callable[[Request], Awaitable[Any]]


def fill(client: redis.Redis) -> None:
    """Items and users with all values present; `n...` ones with every tenth value null."""
    rng = np.random.default_rng(1)
    for name, count in (("item", ITEMS), ("user", USERS)):
        kinds = dict.fromkeys(features_of(name), Kind.FLOAT32)
        writer = MatrixWriter(client, Packer(PROJECT, f"{name}_stats", [f"{name}_id"], kinds))
        for prefix, nulls in (("", 0.0), ("n", 0.1)):
            columns = {
                f: Column(rng.standard_normal(count, np.float32), rng.random(count) < nulls) for f in features_of(name)
            }
            ids = [f"{prefix}{name}-{n:06d}" for n in range(count)]
            times = 1_770_000_000_000_000 + rng.integers(0, 10**12, count)
            writer.write(Batch([ids], columns, times, 1, np.arange(count, dtype=np.uint64)))


def requests(count: int, prefixes: Sequence[str], seed: int) -> list[Request]:
    """Random users and items; prefix "" = complete ones, "n" = with nulls, "x" = absent."""
    chosen = random.Random(seed)

    def one(name: str, number: int) -> str:
        return f"{chosen.choice(prefixes)}{name}-{chosen.randrange(number):06d}"

    return [(one("user", USERS), [one("item", ITEMS) for _ in range(CANDIDATES)]) for _ in range(count)]


class Sdk:
    """`FeatureStore.get_online_features` of stock Feast, its own Redis store."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._refs = [f"{name}_stats:{feature}" for name in ("user", "item") for feature in features_of(name)]

    def rows(self, request: Request) -> dict[str, list[str]]:
        user, items = request
        return {"user_id": [user] * len(items), "item_id": items}

    async def read(self, request: Request) -> dict[str, list[Any]]:
        answer: dict[str, list[Any]] = self._store.get_online_features(self._refs, self.rows(request)).to_dict()
        return answer

    async def read_async(self, request: Request) -> dict[str, list[Any]]:
        response = await self._store.get_online_features_async(self._refs, self.rows(request))
        answer: dict[str, list[Any]] = response.to_dict()
        return answer


class Ours:
    """`MatrixReader`, complete: keys made, nulls, absent ones, event times, orders, a deadline."""

    def __init__(self, url: str) -> None:
        self.reader = MatrixReader(Endpoint.from_url(url))

    async def read(self, request: Request) -> list[Rows]:
        user, items = request
        reads = [
            Read("user_stats", entity_keys(PROJECT, ("user_id",), [user]), features_of("user")),
            Read("item_stats", entity_keys(PROJECT, ("item_id",), items), features_of("item")),
        ]
        return await self.reader.read(reads, timeout_s=5.0, now_us=0)


class Floors:
    """The least that reading this layout costs in Python; values only."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._client = redis.Redis.from_url(url)
        self._socket = socket.create_connection((where.hostname, where.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=self)
        self._fields = {
            name: [feature_field(f"{name}_stats", f) for f in features_of(name)] for name in ("user", "item")
        }
        self._head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(self._fields["item"]))
        self._suffix = {name: b"".join(map(frame, fields)) for name, fields in self._fields.items()}

    def _keys(self, request: Request) -> list[tuple[str, bytes]]:
        user, items = request
        keys = [("user", key) for key in entity_keys(PROJECT, ("user_id",), [user])]
        return keys + [("item", key) for key in entity_keys(PROJECT, ("item_id",), items)]

    async def hand_packed(self, request: Request) -> Any:
        """Hand-packed RESP on a bare blocking socket, hiredis, one numpy decode."""
        keys = self._keys(request)
        self._socket.sendall(b"".join([self._head + frame(key) + self._suffix[name] for name, key in keys]))
        replies: list[list[bytes]] = []
        while len(replies) < len(keys):
            self._reader.feed(self._socket.recv(1 << 18))
            while (reply := self._reader.gets()) is not self:
                replies.append(reply)
        return _floats(replies)

    async def redis_py(self, request: Request) -> Any:
        """A redis-py pipeline of HMGET, one numpy decode."""
        with self._client.pipeline(transaction=False) as pipe:
            for name, key in self._keys(request):
                pipe.hmget(key, self._fields[name])
            return _floats(pipe.execute())

    def close(self) -> None:
        self._socket.close()
        self._client.close()


def _floats(replies: list[list[bytes]]) -> Any:
    cells = np.frombuffer(b"".join([b"".join(reply) for reply in replies]), np.uint8).reshape(-1, 5)
    return cells[:, 1:].copy().view("<f4").reshape(len(replies), -1)


async def differing(sdk: Sdk, ours: Ours, asked: Sequence[Request]) -> tuple[int, int]:
    """(values compared, values that differ in any bit) between the SDK and ours."""
    compared = different = 0
    for request in asked:
        answer = await sdk.read(request)
        for name, rows in zip(("user", "item"), await ours.read(request), strict=True):
            columns = [answer[feature] for feature in features_of(name)]
            table = np.array([[np.nan if v is None else v for v in column] for column in columns], np.float32).T
            matrix = np.repeat(rows.matrix, len(table), axis=0) if name == "user" else rows.matrix
            compared += table.size
            different += int((matrix.view(np.uint32) != table.view(np.uint32)).sum())
    return compared, different


async def timed(ways: dict[str, Way], rounds: int, calls: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of wall and of this process's CPU per way."""
    chosen = random.Random(3)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        asked = requests(calls, [""], seed=100 + number)
        for name in chosen.sample(sorted(ways), len(ways)):
            for request in asked[:5]:
                await ways[name](request)
            for request in asked:
                started, used = time.perf_counter(), time.process_time()
                await ways[name](request)
                wall[name].append((time.perf_counter() - started) * 1e3)
                cpu[name].append((time.process_time() - used) * 1e3)
    return {"wall_ms": wall, "cpu_ms": cpu}


async def run(url: str, rounds: int, calls: int) -> dict[str, Any]:
    """Fills, compares, times."""
    with tempfile.TemporaryDirectory() as folder, redis.Redis.from_url(url) as client:
        fill(client)
        store = open_store(Path(folder), url, "redis")
        sdk, ours, floors = Sdk(store), Ours(url), Floors(url)
        compared, different = await differing(sdk, ours, requests(50, [""], 1) + requests(150, ["", "n", "x"], 2))
        if different:
            raise SystemExit(f"{different} of {compared} values differ from the SDK's")
        ways: dict[str, Way] = {
            "sdk": sdk.read,
            "sdk_async": sdk.read_async,
            "redis_py_pipeline": floors.redis_py,
            "floor_hand_packed": floors.hand_packed,
            "ours": ours.read,
        }
        times = await timed(ways, rounds, calls)
        await ours.reader.close()
        floors.close()
        client_async: Any = store._get_provider().online_store._client_async
        if client_async is not None:
            await client_async.aclose()
    wall = {name: spread(values) for name, values in times["wall_ms"].items()}
    return {
        "benchmark": "feast_read",
        "request": {"users": 1, "items": CANDIDATES, "features_each": 20, "stored_items": ITEMS},
        "parity": {"values": compared, "different": different},
        "wall_ms": wall,
        "cpu_ms": {name: spread(values) for name, values in times["cpu_ms"].items()},
        "times_faster_than_sdk": ratios(wall["sdk"], wall["ours"]),
        "times_faster_than_sdk_async": ratios(wall["sdk_async"], wall["ours"]),
        "times_the_floor": ratios(wall["ours"], wall["floor_hand_packed"]),
        "bar": {"times_faster_than_sdk": BAR},
    }


def main() -> int:
    """Exit status 0 when ours is at least BAR times faster than the SDK, by the median and by the lower quartile."""
    options = arguments(__doc__ or "", rounds=5, calls=100)
    with redis_at(options.redis) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        before = environment(url)
        result = runner.run(run(url, options.rounds, options.calls))
        report(result | {"before": before, "load_after": environment(url)["load"]}, options.json)
    return 0 if min(result["times_faster_than_sdk"].values()) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
