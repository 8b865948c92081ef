"""The whole loop with certificates on every edge, replaced under traffic: nothing is lost and no call fails.

Redis's TLS ends in a relay in front of it (`tests/relay.py`); everything else speaks it itself.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.api import Api
from services.demo.record import Record
from services.demo.secure import Secure
from services.demo.tools import Tools
from tests.certificates import Authority, Secret
from tests.pipeline.loop import CALM, Loop, eventually
from tests.relay import Relay

pytestmark = pytest.mark.pipeline

OLD, NEW = Authority("old"), Authority("new")


@dataclass
class SafeLoop(Loop):
    """Every part asks for certificates, every client shows one."""

    servers: Secret = field(kw_only=True)
    clients: Secret = field(kw_only=True)

    def _start_services(self) -> None:
        files = {"CA": self.clients.ca, "CERT": self.clients.cert, "KEY": self.clients.key}
        self.relay = Relay(self.stack.redis.port, self.servers.tls).__enter__()
        self.settings = {
            **{f"FRESHRANK_{part}_{n}": str(p) for part in ("KAFKA", "REDIS", "TRITON") for n, p in files.items()},
            "FRESHRANK_REDIS_URL": f"rediss://127.0.0.1:{self.relay.port}",
            "FRESHRANK_GATEWAY_TLS_CERT": str(self.servers.cert),
            "FRESHRANK_GATEWAY_TLS_KEY": str(self.servers.key),
            "FRESHRANK_GATEWAY_TLS_CLIENT_CA": str(self.servers.ca),
        }
        super()._start_services()

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        self.relay.__exit__(None, None, None)


@pytest.fixture
def loop(tools: Tools, tmp_path: Path) -> Iterator[SafeLoop]:
    servers, clients = (Secret(tmp_path / name).put(OLD, OLD, NEW) for name in ("servers", "clients"))
    secure = Secure(servers.tls, servers.both, clients.tls)
    made = SafeLoop(tmp_path / "run", tools, secure=secure, servers=servers, clients=clients)
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def test_a_shop_with_certificates_everywhere_learns_serves_and_rotates(loop: SafeLoop, tmp_path: Path) -> None:
    champion = await loop.serving()
    failed = dict(loop.record.failed)
    async with loop.traffic(CALM):
        await asyncio.sleep(2)
        loop.clients.put(NEW, OLD, NEW)
        await asyncio.sleep(2)
        loop.servers.put(NEW, OLD, NEW)
        loop.relay.renew()
        await asyncio.sleep(2)
    assert dict(loop.record.failed) == failed, "calls failed while certificates were replaced"

    for secret in (loop.servers, loop.clients):
        secret.put(NEW)
    loop.relay.renew(drop=True)
    for part in ("kafka", "triton"):  # they read their files when they start
        await asyncio.to_thread(loop.restart, part)
    await loop.revive()
    async with loop.calling() as api:
        await eventually(lambda: _served(api, champion), 60)
    async with loop.traffic(CALM):
        pass
    await loop.revive()
    assert await loop.ledger() == {}

    for stranger in (Secret(tmp_path / "stranger").put(OLD, OLD, NEW).tls, None):
        refused = Api(loop.plan.gateway, Record(), tls=stranger)
        with pytest.raises(grpc.aio.AioRpcError):
            await refused.stub.Recommend(ranking_pb2.RecommendRequest(page_size=1), timeout=5)
        await refused.close()


async def _served(api: Api, champion: str) -> bool:
    asked = await api.recommend(ranking_pb2.Shopper(user_id="newcomer"))
    return asked is not None and asked[1].degradation == events_pb2.DEGRADATION_NONE
