"""The Python client against a server that misbehaves in the ways servers do."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from freshrank import ApiError, Client, errors
from freshrank.v1 import ranking_pb2 as pb
from freshrank.v1 import ranking_pb2_grpc
from freshrank.v1.events_pb2 import Event

from services.common.errors import DeadlineExceeded, NotFound, Overloaded, TemporaryError
from services.common.metrics import Metrics
from services.common.tracing import Tracing
from services.gateway.grpc.guard import Guard
from services.gateway.grpc.server import RANKING, Server, Tls
from services.gateway.limits import Concurrency
from services.gateway.meters import Meters


class Moody(ranking_pb2_grpc.RankingServicer):
    """Fails as told, then answers."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.calls = 0
        self.tracked: list[Event] = []

    def _fail(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

    async def Rank(self, request: pb.RankRequest, context: Any) -> pb.RankingResponse:
        """The candidates by their place."""
        self._fail()
        order = sorted(request.candidates, key=lambda c: -c.prior_rank)
        return pb.RankingResponse(results=[pb.RankedItem(item_id=c.item_id) for c in order])

    async def Track(self, request: pb.TrackRequest, context: Any) -> pb.TrackResponse:
        """Remembers."""
        self._fail()
        self.tracked += request.events
        return pb.TrackResponse(results=[pb.TrackResult(offset=k) for k in range(len(request.events))])


@pytest.fixture
def moody() -> Moody:
    return Moody()


async def started(moody: Moody, tls: Tls) -> Server:
    guard = Guard(Meters(Metrics("gateway")), Tracing("gateway"), Concurrency(9), (RANKING,))
    server = Server(RANKING, [guard], reflect=False)
    ranking_pb2_grpc.add_RankingServicer_to_server(moody, server.grpc)
    await server.open("127.0.0.1", 0, tls)
    await server.ready(True)
    return server


@pytest.fixture
async def server(moody: Moody) -> AsyncIterator[Server]:
    it = await started(moody, Tls())
    yield it
    await it.drain(0)


async def blocking(call: Callable[[], Any]) -> Any:
    """Run the synchronous client beside the server's loop."""
    return await asyncio.to_thread(call)


async def test_ids_are_ranked_with_their_place_in_the_list(server: Server) -> None:
    with Client(f"127.0.0.1:{server.port}") as client:
        answer = await blocking(lambda: client.rank("ada", ["a", "b", pb.Candidate(item_id="c", prior_rank=9)]))
    assert [r.item_id for r in answer.results] == ["c", "b", "a"]


async def test_unavailable_is_tried_again_quietly(server: Server, moody: Moody) -> None:
    moody.failures = [TemporaryError("a"), TemporaryError("b")]
    with Client(f"127.0.0.1:{server.port}", read_s=5) as client:
        assert (await blocking(lambda: client.rank("ada", ["a"]))).results
    assert moody.calls == 3


async def test_what_stays_unavailable_is_raised_after_three_tries(server: Server, moody: Moody) -> None:
    moody.failures = [TemporaryError("no broker")] * 9
    with Client(f"127.0.0.1:{server.port}", read_s=5) as client, pytest.raises(errors.Unavailable) as caught:
        await blocking(lambda: client.rank("ada", ["a"]))
    assert moody.calls == 3
    assert caught.value.retry_after_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Overloaded("full"), errors.Overloaded),
        (DeadlineExceeded("late"), errors.DeadlineExceeded),
        (NotFound("gone"), errors.NotFound),
        (ValueError("a bug"), ApiError),
    ],
)
async def test_other_failures_are_raised_at_once(
    server: Server, moody: Moody, failure: Exception, kind: type[ApiError]
) -> None:
    moody.failures = [failure] * 3
    with Client(f"127.0.0.1:{server.port}") as client, pytest.raises(kind):
        await blocking(lambda: client.rank("ada", ["a"]))
    assert moody.calls == 1


async def test_a_method_the_server_lacks_is_told_apart(server: Server) -> None:
    with Client(f"127.0.0.1:{server.port}") as client, pytest.raises(errors.Unimplemented):
        await blocking(lambda: client.explain("t"))


async def test_events_get_an_id_and_long_lists_go_in_several_calls(server: Server, moody: Moody) -> None:
    events = [Event(kind="EVENT_KIND_CLICK", user_id="ada", item_id="x") for _ in range(2500)]
    with Client(f"127.0.0.1:{server.port}") as client:
        results = await blocking(lambda: client.track(*events))
    assert len(results) == 2500
    assert moody.calls == 3
    assert len({event.event_id for event in moody.tracked}) == 2500


async def test_nobody_there_is_unavailable() -> None:
    with Client("127.0.0.1:9") as client:
        with pytest.raises(errors.Unavailable):
            await blocking(lambda: client.wait_ready(0.2))
        with pytest.raises(errors.Retryable):
            await blocking(lambda: client.rank("ada", ["a"], timeout_s=0.3))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, a server's and a client's certificate."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return folder


async def test_tls_and_client_certificates(moody: Moody, certificates: Path) -> None:
    read = {path.name: path.read_bytes() for path in certificates.iterdir()}
    server = await started(
        moody, Tls(certificates / "server.pem", certificates / "server.key", certificates / "ca.pem")
    )
    known = grpc.ssl_channel_credentials(read["ca.pem"], read["client.key"], read["client.pem"])
    stranger = grpc.ssl_channel_credentials(read["ca.pem"])
    with Client(f"localhost:{server.port}", credentials=known, read_s=5) as client:
        assert (await blocking(lambda: client.rank("ada", ["a"]))).results
    with Client(f"localhost:{server.port}", credentials=stranger) as client, pytest.raises(errors.Retryable):
        await blocking(lambda: client.rank("ada", ["a"]))
    await server.drain(0)
