"""Redis over mTLS: readers, writers and Feast's SDK, while certificates are replaced. TLS ends in `tests/relay.py`."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from feast.protos.feast.types.Value_pb2 import Value

from services.common.tls import Tls
from services.online.connect import asyncio_client, client
from services.online.failures import StoreUnavailable
from services.online.registry import with_defaults
from services.online.wire import Endpoint, Wire
from tests.certificates import Authority, Secret
from tests.online.conftest import Server
from tests.online.shop import open_shop
from tests.relay import Relay

OLD, NEW = Authority("old"), Authority("new")
PING = b"*1\r\n$4\r\nPING\r\n"


@dataclass
class Safe:
    """Redis behind TLS, and both sides' files."""

    relay: Relay
    server: Secret
    mine: Secret

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.relay.port}/0"

    def rotate(self) -> None:
        """Another authority on both sides, and every connection is made anew."""
        self.server.put(NEW)
        self.mine.put(NEW)
        self.relay.renew(drop=True)


@pytest.fixture
def safe(server: Server, tmp_path: Path) -> Iterator[Safe]:
    files, mine = Secret(tmp_path / "server").put(OLD), Secret(tmp_path / "mine").put(OLD)
    with Relay(server.port, files.tls) as relay:
        yield Safe(relay, files, mine)


async def test_the_gateways_wire_goes_over_to_new_certificates(safe: Safe) -> None:
    wire = Wire(Endpoint.from_url(safe.url, safe.mine.tls))
    assert await wire.ask(PING, 1, 5.0) == [b"PONG"]
    safe.mine.put(OLD)
    safe.relay.renew()
    assert await wire.ask(PING, 1, 5.0) == [b"PONG"], "an open connection lives on"
    safe.rotate()
    with pytest.raises(StoreUnavailable):
        await wire.ask(PING, 1, 5.0)  # the connection that was cut
    assert await wire.ask(PING, 1, 5.0) == [b"PONG"]
    await wire.close()


async def test_a_stranger_is_refused(safe: Safe, tmp_path: Path) -> None:
    for tls in (
        Tls(safe.mine.ca),
        Secret(tmp_path / "new").put(NEW, OLD).tls,
        Secret(tmp_path / "deaf").put(OLD, NEW).tls,
    ):
        wire = Wire(Endpoint.from_url(safe.url, tls))
        with pytest.raises(StoreUnavailable):
            await wire.ask(PING, 1, 5.0)
        await wire.close()


async def test_files_that_are_away_are_redis_that_is_away(safe: Safe) -> None:
    wire = Wire(Endpoint.from_url(safe.url, safe.mine.tls))
    safe.mine.key.unlink()
    with pytest.raises(StoreUnavailable):
        await wire.ask(PING, 1, 5.0)
    await wire.close()


def test_a_blocking_client_goes_over_to_new_certificates(safe: Safe) -> None:
    with client(safe.url, safe.mine.tls) as redis_client:
        redis_client.set("a", 1)
        safe.rotate()
        assert redis_client.get("a") == b"1"  # redis-py connects again by itself
    with client(safe.url, Tls(safe.mine.ca)) as nobody, pytest.raises((redis.ConnectionError, ssl.SSLError)):
        nobody.ping()


async def test_an_asyncio_client_goes_over_to_new_certificates(safe: Safe) -> None:
    async with asyncio_client(safe.url, safe.mine.tls) as redis_client:
        await redis_client.set("a", 1)
        safe.rotate()
        with pytest.raises(redis.ConnectionError):
            await redis_client.get("a")  # the connection that was cut
        assert await redis_client.get("a") == b"1"


def test_feast_reads_and_writes_by_the_same_files(safe: Safe, tmp_path: Path) -> None:
    files = {"CA": safe.mine.ca, "CERT": safe.mine.cert, "KEY": safe.mine.key}
    environment = {"FRESHRANK_REDIS_URL": safe.url} | {f"FRESHRANK_REDIS_{n}": str(p) for n, p in files.items()}
    connection = with_defaults(environment)["FRESHRANK_REDIS"]
    (tmp_path / "repo").mkdir()
    shop = open_shop(tmp_path / "repo", connection)
    rows = [("hat", {"int64": Value(int64_val=7)}, datetime(2026, 1, 1, tzinfo=UTC))]
    shop.push(rows)
    safe.rotate()
    assert shop.get(["hat"], ["int64"])["int64"] == [7]
