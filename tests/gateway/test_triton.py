"""The scorer beside servers of our own: what it does while it waits, and which of several it asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from services.common.errors import DeadlineExceeded
from services.gateway.triton import ScorerUnavailable, TritonScorer
from tests.gateway.small_triton import ARRAYS, SCORES, answer, server_of


@asynccontextmanager
async def triton(may_answer: asyncio.Event) -> AsyncIterator[str]:
    """A server that gives SCORES once it may; its address."""

    async def infer(request: bytes, context: object) -> bytes:
        await may_answer.wait()
        return answer()

    server = server_of(infer)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_the_time_in_which_triton_computes_is_used() -> None:
    worked = asyncio.Event()
    async with triton(worked) as address:  # it answers only after the work: done later, the call would end in time
        scorer = TritonScorer(address, meanwhile=worked.set)
        assert np.array_equal(await scorer.score("r1", ARRAYS, 10.0), SCORES)
        await scorer.close()


async def test_a_server_that_does_not_answer_in_time_is_said_to_be_late() -> None:
    async with triton(asyncio.Event()) as address:
        scorer = TritonScorer(address)
        with pytest.raises(DeadlineExceeded):
            await scorer.score("r1", ARRAYS, 0.05)
        await scorer.close()


class Pods:
    """Servers that say by their score which one they are; one without its models says NOT_FOUND."""

    def __init__(self) -> None:
        self.servers: dict[str, grpc.aio.Server] = {}
        self.empty: set[str] = set()
        self.asked: list[str] = []

    async def start(self, port: int = 0) -> str:
        """Another one; its address."""
        name = ""

        async def infer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self.asked.append(name)
            if name in self.empty:
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
            return answer()

        server = server_of(infer)
        name = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        await server.start()
        self.servers[name] = server
        return name

    async def stop(self, name: str) -> None:
        """End one."""
        await self.servers.pop(name).stop(None)


@pytest.fixture
async def pods() -> AsyncIterator[Pods]:
    it = Pods()
    yield it
    for name in list(it.servers):
        await it.stop(name)


@pytest.fixture
async def scorer() -> AsyncIterator[TritonScorer]:
    it = TritonScorer("127.0.0.1:9")
    yield it
    await it.close()


async def test_endpoints_of_a_release_take_turns(pods: Pods, scorer: TritonScorer) -> None:
    names = [await pods.start() for _ in range(3)]
    scorer.place({"r1": names[:2], "r2": names[2:]})
    for _ in range(4):
        await scorer.score("r1", ARRAYS, 5.0)
    assert sorted(pods.asked) == sorted(names[:2] * 2)
    await scorer.score("r2", ARRAYS, 5.0)
    assert pods.asked[-1] == names[2]


async def test_one_that_has_died_or_is_empty_is_followed_by_the_next(pods: Pods, scorer: TritonScorer) -> None:
    dead, empty, good = [await pods.start() for _ in range(3)]
    scorer.place({"r1": [dead, empty, good]})
    for _ in range(3):
        await scorer.score("r1", ARRAYS, 5.0)
    await pods.stop(dead)
    pods.empty.add(empty)
    for _ in range(30):
        assert np.array_equal(await scorer.score("r1", ARRAYS, 5.0), SCORES)


async def test_one_that_comes_back_is_asked_again(pods: Pods, scorer: TritonScorer) -> None:
    name = await pods.start()
    scorer.place({"r1": [name]})
    await scorer.score("r1", ARRAYS, 5.0)
    await pods.stop(name)
    with pytest.raises(ScorerUnavailable):
        await scorer.score("r1", ARRAYS, 5.0)
    await pods.start(int(name.rpartition(":")[2]))
    for _ in range(500):
        try:
            await scorer.score("r1", ARRAYS, 5.0)
            return
        except ScorerUnavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("never asked again")


async def test_a_release_that_is_nowhere_is_asked_of_nobody(pods: Pods) -> None:
    name = await pods.start()
    scorer = TritonScorer(name)
    scorer.place({"r1": []})
    with pytest.raises(ScorerUnavailable):
        await scorer.score("r1", ARRAYS, 5.0)
    assert pods.asked == []
    await scorer.score("old", ARRAYS, 5.0)
    assert pods.asked == [name]
    await scorer.close()


async def test_connections_that_are_not_needed_are_closed(pods: Pods, scorer: TritonScorer) -> None:
    one, other = [await pods.start() for _ in range(2)]
    scorer.place({"r1": [one]})
    await scorer.score("r1", ARRAYS, 5.0)
    scorer.place({"r1": [other]})
    await scorer.score("r1", ARRAYS, 5.0)
    scorer.place({"r1": [one]})
    await scorer.score("r1", ARRAYS, 5.0)
    assert pods.asked == [one, other, one]
