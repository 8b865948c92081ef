"""Certificates of the gateway's ports, and of its way to Triton, change while calls go on."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509

from services.gateway.grpc.server import RANKING, Server, Tls
from services.gateway.triton import ScorerUnavailable, TritonScorer
from tests.certificates import Authority, Secret
from tests.gateway.small_triton import ARRAYS, SCORES, answer, server_of

CHECK = "/grpc.health.v1.Health/Check"
FRESH = [("grpc.use_local_subchannel_pool", 1)]
"""No connection of another channel is used."""


async def check(port: int, secret: Secret) -> bytes:
    """One call over a connection of its own; the issuer of the certificate that the server showed."""
    credentials = grpc.ssl_channel_credentials(*secret.tls.pem())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=FRESH) as channel:
        answer: bytes = await channel.unary_unary(CHECK)(b"", timeout=5)
        return answer


class Caller:
    """Calls again and again, over a connection that stays and over new ones."""

    def __init__(self, port: int, secret: Secret) -> None:
        self._port, self._secret = port, secret
        self.calls, self.stopped = 0, False
        self.failed: list[grpc.aio.AioRpcError] = []

    async def run(self) -> None:
        """Until `stopped`."""
        credentials = grpc.ssl_channel_credentials(*self._secret.tls.pem())
        async with grpc.aio.secure_channel(f"127.0.0.1:{self._port}", credentials, options=FRESH) as kept:
            while not self.stopped:
                for call in (lambda: kept.unary_unary(CHECK)(b"", timeout=5), lambda: check(self._port, self._secret)):
                    self.calls += 1
                    try:
                        await call()
                    except grpc.aio.AioRpcError as error:
                        self.failed.append(error)

    async def more(self, count: int = 10) -> None:
        """Return after so many more calls."""
        until = self.calls + count
        while self.calls < until:
            await asyncio.sleep(0.01)


async def issuer(port: int) -> str:
    """Who signed what the port shows."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()


async def test_a_gateway_changes_its_certificate_and_whom_it_trusts_and_no_call_fails(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    served, shop = Secret(tmp_path / "served").put(old), Secret(tmp_path / "shop").put(old)
    forgotten = Secret(tmp_path / "forgotten").put(old, old, new)
    server = Server(RANKING, [], reflect=False)
    port = await server.open("127.0.0.1", 0, Tls(served.cert, served.key, served.ca))
    assert await issuer(port) == "CN=old"
    caller = Caller(port, shop)
    running = asyncio.create_task(caller.run())
    try:
        for secret, signer, trusted in [
            (served, old, (old, new)),
            (shop, old, (old, new)),
            (served, new, (old, new)),
            (shop, new, (new,)),
            (served, new, (new,)),
        ]:
            await caller.more()
            secret.put(signer, *trusted)
        await caller.more()
        assert caller.failed == []
        assert await issuer(port) == "CN=new"
        with pytest.raises(grpc.aio.AioRpcError):
            await check(port, forgotten)
        served.key.unlink()  # half of a rotation
        assert (await issuer(port), await check(port, shop)) == ("CN=new", await check(port, shop))
    finally:
        caller.stopped = True
        await running
        await server.drain(0)


@asynccontextmanager
async def triton(secret: Secret, port: int = 0) -> AsyncIterator[tuple[int, set[bytes]]]:
    """A server that gives SCORES to those with a certificate: its port, and the certificates it was shown."""
    shown: set[bytes] = set()

    async def infer(request: bytes, context: Any) -> bytes:
        shown.update(context.auth_context()["x509_pem_cert"])
        return answer()

    server = server_of(infer)
    ca, key, cert = secret.tls.pem()
    bound = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(key, cert)], ca, True))
    await server.start()
    try:
        yield bound, shown
    finally:
        await server.stop(None)


async def test_scores_go_on_while_the_certificate_is_replaced(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    mine = Secret(tmp_path / "mine").put(old)
    async with triton(Secret(tmp_path / "triton").put(old, old, new)) as (port, shown):
        scorer = TritonScorer(f"127.0.0.1:{port}", tls=mine.tls)
        assert np.array_equal(await scorer.score("r1", ARRAYS, 10.0), SCORES)
        before = set(shown)
        mine.put(new, old)
        async with asyncio.timeout(20):
            while shown == before:  # each call answers, with the old certificate or the new one
                await scorer.score("r1", ARRAYS, 10.0)
                await asyncio.sleep(0.01)
        await scorer.close()


async def test_a_certificate_that_triton_refuses_does_not_end_what_works(tmp_path: Path) -> None:
    old, stranger = Authority("old"), Authority("stranger")
    mine = Secret(tmp_path / "mine").put(old)
    async with triton(Secret(tmp_path / "triton").put(old)) as (port, shown):
        scorer = TritonScorer(f"127.0.0.1:{port}", tls=mine.tls)
        await scorer.score("r1", ARRAYS, 10.0)
        mine.put(stranger)
        line = scorer._line(scorer._default)
        line._watch._next = 0.0
        await scorer.score("r1", ARRAYS, 10.0)
        renewing = line._renewing
        assert renewing is not None
        await renewing
        await scorer.score("r1", ARRAYS, 10.0)
        assert len(shown) == 1
        await scorer.close()


async def test_an_endpoint_of_a_route_is_known_by_the_name_of_the_service(tmp_path: Path) -> None:
    """Pods are called by addresses, which no certificate holds; 127.0.0.1 stands in one, so another name is refused."""
    old = Authority("one")
    mine = Secret(tmp_path / "mine").put(old)
    async with triton(Secret(tmp_path / "triton").put(old)) as (port, _):
        for service, known in (("triton.shop.svc", True), ("other.shop.svc", False)):
            scorer = TritonScorer(f"dns:///{service}:{port}", tls=mine.tls)
            scorer.place({"r1": [f"127.0.0.1:{port}"]})
            if known:
                assert np.array_equal(await scorer.score("r1", ARRAYS, 10.0), SCORES)
            else:
                with pytest.raises(ScorerUnavailable):
                    await scorer.score("r1", ARRAYS, 5.0)
            await scorer.close()


async def test_plain_text_is_refused_where_certificates_are_asked_for(tmp_path: Path) -> None:
    async with triton(Secret(tmp_path / "triton").put(Authority("one"))) as (port, _):
        scorer = TritonScorer(f"127.0.0.1:{port}")
        with pytest.raises(ScorerUnavailable):
            await scorer.score("r1", ARRAYS, 5.0)
        await scorer.close()
