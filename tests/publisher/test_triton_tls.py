"""A real Triton that lets only clients with certificates in: the publisher's and the gateway's ways to it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import TemporaryError
from services.common.tls import Tls
from services.demo.secure import Secure
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.gateway.triton import ScorerUnavailable, TritonScorer
from services.publisher.triton import TritonServer
from tests.certificates import Authority, Secret

pytestmark = pytest.mark.pipeline

OLD, NEW = Authority("old"), Authority("new")
ARRAYS = {"user": np.zeros((1, 2), np.float32), "item": np.zeros((1, 3, 4), np.float32)}


class Calling(threading.Thread):
    """Asks again and again what is loaded."""

    def __init__(self, client: TritonServer) -> None:
        super().__init__(daemon=True)
        self._client, self._ended = client, threading.Event()
        self.calls, self.failed = 0, []
        self.start()

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.is_set():
            self.calls += 1
            try:
                self._client.loaded()
            except Exception as error:
                self.failed.append(error)

    def end(self) -> list[Exception]:
        """What failed."""
        self._ended.set()
        self.join()
        return self.failed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Secret]:
    """Of the server and of a client."""
    return {name: Secret(tmp_path_factory.mktemp(name)).put(OLD, OLD, NEW) for name in ("server", "client")}


@pytest.fixture(scope="module")
def stack(tools: Tools, files: dict[str, Secret], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Triton alone."""
    server, client = files["server"], files["client"]
    secure = Secure(server.tls, server.both, client.tls)
    with Stack(tmp_path_factory.mktemp("triton"), parts=["triton"], tools=tools, secure=secure) as running:
        yield running


def test_the_name_of_the_service_is_asked_for_behind_the_address_of_a_pod(
    stack: Stack, files: dict[str, Secret]
) -> None:
    address, tls = stack.triton.grpc_address, files["client"].tls
    assert TritonServer(address, tls=tls, name="triton.shop.svc").loaded() == set()
    with pytest.raises(TemporaryError):
        TritonServer(address, tls=tls, name="triton.elsewhere.svc").loaded()


async def test_the_publisher_goes_over_to_another_authority_and_no_call_fails(
    stack: Stack, files: dict[str, Secret], tmp_path: Path
) -> None:
    mine, address = files["client"], stack.triton.grpc_address
    client = TritonServer(address, tls=mine.tls)
    calling, before = Calling(client), client._connected
    mine.put(NEW, OLD, NEW)
    while client._connected is before:
        assert calling.is_alive()
    after = calling.calls + 50
    while calling.calls < after:
        assert calling.is_alive()
    assert calling.end() == []
    files["server"].put(NEW)
    stack.restart("triton")  # it reads its files when it starts
    mine.put(NEW)
    assert TritonServer(address, tls=mine.tls).loaded() == set()
    stranger = Secret(tmp_path / "stranger").put(OLD, OLD, NEW).tls
    for tls in (stranger, Tls(mine.ca), None):
        with pytest.raises(TemporaryError):
            TritonServer(address, tls=tls).loaded()
    for tls, says in ((mine.tls, "NOT_FOUND|unknown model"), (stranger, "UNAVAILABLE")):
        scorer = TritonScorer(address, tls=tls)
        with pytest.raises(ScorerUnavailable, match=says):
            await scorer.score("r1", ARRAYS, 5.0)
        await scorer.close()
