"""A release with certificates on every edge, from the chart's values to processes; they are replaced under traffic.

Redis's TLS ends in a relay in front of it (`tests/relay.py`).
"""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest
from cryptography import x509
from freshrank.v1 import ranking_pb2

from services.demo.api import Api
from services.demo.record import Record
from services.demo.secure import Secure
from services.demo.tools import Tools
from tests.certificates import Authority, Secret
from tests.cluster.cluster import Cluster
from tests.cluster.machine import Machine, some_network
from tests.cluster.rolling import RollingLoop
from tests.pipeline.loop import eventually
from tests.relay import Relay

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SECRET = "shop-tls"
PART = {"enabled": True, "existingSecret": SECRET, "mutual": True}
VALUES = {"tls": {part: PART for part in ("gateway", "kafka", "redis", "triton")}}
FILES = ("ca.crt", "tls.crt", "tls.key")
SERVED = ("gateway", "triton")
PODS = 40
"""More than there are; each has an address that the certificate holds."""


@dataclass
class SafeLoop(RollingLoop):
    """The parts outside have files of their own, all pods one Secret."""

    servers: Secret = field(kw_only=True)
    clients: Secret = field(kw_only=True)

    def _machine(self) -> Machine:
        self.relay = Relay(self.stack.redis.port, self.servers.tls).__enter__()
        return super()._machine()

    def secrets(self) -> dict[str, dict[str, str]]:
        """With the certificate."""
        url = {"url": f"rediss://127.0.0.1:{self.relay.port}"}
        return {**super().secrets(), "freshrank-redis": url, SECRET: self.files()}

    def files(self) -> dict[str, str]:
        """Of the Secret, as they are now."""
        return {path.name: path.read_text() for path in (self.clients.ca, self.clients.cert, self.clients.key)}

    def put(self, signer: Authority, *trusted: Authority) -> None:
        """Another certificate for all pods."""
        self.clients.put(signer, *trusted)
        self.machine.change(SECRET, self.files())

    def stop(self) -> None:
        """Stop everything."""
        super().stop()
        self.relay.__exit__(None, None, None)


@pytest.fixture(scope="module")
def authorities() -> tuple[str, Authority, Authority]:
    """The network of the pods, and who signs for it: first and later."""
    network = some_network()
    hosts = [*(f"freshrank-{name}" for name in SERVED), *(f"{network}.{number}" for number in range(2, PODS))]
    return network, Authority("old", hosts), Authority("new", hosts)


@pytest.fixture
def loop(
    cluster: Cluster,
    tools: Tools,
    tmp_path_factory: pytest.TempPathFactory,
    authorities: tuple[str, Authority, Authority],
) -> Iterator[SafeLoop]:
    network, old, new = authorities
    folder = tmp_path_factory.mktemp("tls")
    servers, clients = (Secret(folder / name).put(old, old, new) for name in ("servers", "clients"))
    secure = Secure(servers.tls, servers.both, clients.tls)
    with cluster.namespace() as pods, cluster.namespace() as release:
        made = SafeLoop(
            folder / "run",
            tools,
            values=VALUES,
            cluster=cluster,
            namespace=pods,
            release_namespace=release,
            network=network,
            secure=secure,
            servers=servers,
            clients=clients,
        )
        (folder / "run").mkdir()
        made.start()
        yield made
        made.stop()


async def test_certificates_of_the_chart_are_replaced_and_no_pod_is_started_anew(
    loop: SafeLoop, authorities: tuple[str, Authority, Authority]
) -> None:
    _, old, new = authorities
    await loop.serving(300)
    ended = await asyncio.to_thread(loop.test)
    assert ended.returncode == 0, f"{ended.stderr}{loop.ran[-3:]}"
    pids = {name: loop.stack.supervisor.pid(name) for name in loop.plan.pods}
    failed = dict(loop.record.failed)
    assert await issuer(loop) == "CN=old"
    async with loop.shopping():
        await asyncio.sleep(2)
        loop.put(new, old, new)
        await eventually(lambda: shown(loop, "CN=new"), 60, 0.5)
        await asyncio.sleep(5)
    assert dict(loop.record.failed) == failed
    assert {name: loop.stack.supervisor.pid(name) for name in pids} == pids
    for stranger in (None, Secret(loop.folder / "stranger").put(Authority("stranger"), new).tls):
        refused = Api(loop.plan.gateway, Record(), tls=stranger)
        with pytest.raises(grpc.aio.AioRpcError):
            await refused.stub.Recommend(ranking_pb2.RecommendRequest(page_size=1), timeout=5)
        await refused.close()
    ended = await asyncio.to_thread(loop.test)
    assert ended.returncode == 0, f"{ended.stderr}{loop.ran[-3:]}"
    assert await loop.ledger(300) == {}


async def shown(loop: SafeLoop, name: str) -> bool:
    return await issuer(loop) == name


async def issuer(loop: SafeLoop) -> str:
    """Who signed what the gateway shows."""
    pod = loop.plan.pods["gateway"]
    place = (pod.address, loop.plan.grpc_port)
    pem = await asyncio.to_thread(ssl.get_server_certificate, place)
    return x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()
