"""Serving through change: servers stop and start under traffic, and callers with the shipped client notice nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from freshrank import ApiError, Client, errors
from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1 import ranking_pb2_grpc

from services.common.errors import InvalidInput
from services.gateway.app import check
from services.gateway.grpc.server import RANKING, ConnectionAge, Server, Tls
from services.gateway.settings import GatewaySettings


class Slow(ranking_pb2_grpc.RankingServicer):
    """Takes its time, and remembers who called."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls = seconds, 0
        self.peers: list[str] = []
        self.inside = asyncio.Event()

    async def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankingResponse:
        """The candidates as they are."""
        self.calls += 1
        self.peers.append(context.peer())
        self.inside.set()
        await asyncio.sleep(self.seconds)
        return pb.RankingResponse(results=[pb.RankedItem(item_id=c.item_id) for c in request.candidates])


class Gateways:
    """Servers that are started and drained by a test."""

    def __init__(self) -> None:
        self.running: dict[int, Server] = {}

    async def start(self, port: int = 0, servicer: Slow | None = None, age: ConnectionAge | None = None) -> int:
        server = Server(RANKING, [], reflect=False, age=age or ConnectionAge())
        ranking_pb2_grpc.add_RankingServicer_to_server(servicer or Slow(), server.grpc)
        port = await server.open("127.0.0.1", port, Tls())
        await server.ready(True)
        self.running[port] = server
        return port

    async def drain(self, port: int, seconds: float = 5.0, leave_s: float = 0.2) -> None:
        await self.running.pop(port).drain(seconds, leave_s)


@pytest.fixture
async def gateways() -> AsyncIterator[Gateways]:
    it = Gateways()
    yield it
    for port in list(it.running):
        await it.drain(port, 0, 0)


class Traffic:
    """Callers in threads of their own until told to stop."""

    def __init__(self, client: Client, callers: int = 4) -> None:
        self.client, self.answered, self.failed = client, 0, list[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self.client.rank("ada", ["a"], timeout_s=5)
                self.answered += 1
            except ApiError as error:
                self.failed.append(repr(error))

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    async def more(self, count: int = 100) -> None:
        """Wait until so many more calls have ended."""
        wanted = self.answered + len(self.failed) + count
        while self.answered + len(self.failed) < wanted:
            await asyncio.sleep(0.01)

    async def ended(self) -> None:
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


def client_of(*ports: int) -> Client:
    return Client("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), read_s=5)


async def test_servers_restarted_in_turn_under_traffic_fail_no_call(gateways: Gateways) -> None:
    ports = [await gateways.start() for _ in range(2)]
    with client_of(*ports) as client, Traffic(client) as traffic:
        await traffic.more()
        for port in ports * 2:
            await gateways.drain(port)
            await traffic.more()
            await gateways.start(port)
            await traffic.more()
            await asyncio.sleep(1.0)  # the client finds it again, so that the other one can go
        await traffic.ended()
    assert traffic.failed == []


async def test_a_server_that_breaks_off_its_calls_fails_none_either(gateways: Gateways) -> None:
    servicer = Slow(0.02)
    first, second = await gateways.start(servicer=servicer), await gateways.start()
    with client_of(first, second) as client, Traffic(client) as traffic:
        await traffic.more()
        await gateways.running.pop(first).grpc.stop(None)
        await traffic.more()
        await traffic.ended()
    assert servicer.calls > 0
    assert traffic.failed == []


async def test_a_server_that_says_it_is_leaving_gets_no_more_calls(gateways: Gateways) -> None:
    leaving, staying = Slow(), Slow()
    first, second = await gateways.start(servicer=leaving), await gateways.start(servicer=staying)
    with client_of(first, second) as client, Traffic(client) as traffic:
        await traffic.more()
        assert leaving.calls
        await gateways.running[first].ready(False)
        await traffic.more()
        before = leaving.calls
        await traffic.more()
        assert leaving.calls == before
        await gateways.running[first].ready(True)
        while leaving.calls == before:
            await asyncio.sleep(0.01)
        await traffic.ended()
    assert traffic.failed == []


async def test_a_call_inside_is_answered_while_the_server_drains(gateways: Gateways) -> None:
    servicer = Slow(0.5)
    port = await gateways.start(servicer=servicer)
    with client_of(port) as client:
        call = asyncio.create_task(asyncio.to_thread(lambda: client.rank("ada", ["a"])))
        await servicer.inside.wait()
        await gateways.drain(port, 5.0, 0.0)
        assert (await call).results[0].item_id == "a"
        with pytest.raises(errors.Retryable):
            await asyncio.to_thread(lambda: client.rank("ada", ["a"], timeout_s=0.3))


async def test_while_it_leaves_calls_are_still_taken(gateways: Gateways) -> None:
    port = await gateways.start()
    draining = asyncio.create_task(gateways.drain(port, 5.0, 1.0))
    await asyncio.sleep(0.1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = ranking_pb2_grpc.RankingStub(channel)  # type: ignore[no-untyped-call]
        answer = await stub.Rank(pb.RankRequest(candidates=[pb.Candidate(item_id="a")]), timeout=5)
    assert answer.results
    await draining


async def test_an_old_connection_is_given_up_and_no_call_with_it(gateways: Gateways) -> None:
    servicer = Slow(0.01)
    port = await gateways.start(servicer=servicer, age=ConnectionAge(1.0, 5.0))
    with client_of(port) as client, Traffic(client) as traffic:
        while len(set(servicer.peers)) < 3:
            await asyncio.sleep(0.05)
        await traffic.ended()
    assert traffic.failed == []


@pytest.mark.parametrize("name", ["drain_seconds", "connection_age_grace_seconds"])
def test_a_time_that_would_cut_calls_off_is_refused(name: str) -> None:
    given: dict[str, Any] = {name: 4.0}
    with pytest.raises(InvalidInput) as caught:
        check(GatewaySettings(token_keys="1:" + "ab" * 16, **given))
    assert caught.value.field == name
