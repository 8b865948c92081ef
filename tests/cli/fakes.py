"""Small real servers for the command to call: both APIs over gRPC, and probe servers."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import typer
from freshrank.v1 import models_pb2 as pb
from freshrank.v1 import models_pb2_grpc, ranking_pb2, ranking_pb2_grpc
from freshrank.v1.events_pb2 import Event
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner

from services.cli.app import build
from services.common.health import Health, serve
from services.common.metrics import Metrics

CHAMPION, PREVIOUS, HELD = "r20260102t030405-1-9", "r20260102t030335-1-8", "r20260102t030435-1-10"


@dataclass
class Admin(models_pb2_grpc.AdminServicer):
    """Three releases and a switch; obeys at once, but for what `stuck` says."""

    token: str = ""
    stuck: bool = False
    """Takes commands and changes nothing, as a publisher that is down."""
    freeze: pb.Freeze = field(default_factory=pb.Freeze)
    champion: str = CHAMPION
    asked: list[Any] = field(default_factory=list)
    encoders: list[pb.Encoder] = field(
        default_factory=lambda: [
            pb.Encoder(encoder="t2", state="serving", slot="tb", epoch=2, decided_us=1_760_000_000_000_000),
            pb.Encoder(encoder="t1", state="previous", slot="ta", epoch=1, decided_us=1_750_000_000_000_000),
        ]
    )

    def ListReleases(self, request: Any, context: Any) -> pb.ListReleasesResponse:
        self._check(context)
        return pb.ListReleasesResponse(releases=[self._release(name) for name in (HELD, CHAMPION, PREVIOUS)])

    def PromoteRelease(self, request: pb.PromoteReleaseRequest, context: Any) -> pb.Release:
        self._check(context)
        self.asked.append(request)
        if request.release not in (HELD, CHAMPION, PREVIOUS):
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no release {request.release!r}")
        if not self.stuck:
            self.champion = request.release
        return self._release(request.release)

    def RollbackRelease(self, request: pb.RollbackReleaseRequest, context: Any) -> pb.Release:
        self._check(context)
        self.asked.append(request)
        if not self.stuck:
            self.champion = request.release or PREVIOUS
        return self._release(request.release or self.champion)

    def SetFreeze(self, request: pb.Freeze, context: Any) -> pb.Freeze:
        self._check(context)
        self.asked.append(request)
        if not self.stuck:
            self.freeze = request
        return self.freeze

    def GetStatus(self, request: Any, context: Any) -> pb.Status:
        self._check(context)
        return pb.Status(freeze=self.freeze, champion=self.champion, previous=PREVIOUS, slot="a", epoch=1)

    def ListEncoders(self, request: Any, context: Any) -> pb.ListEncodersResponse:
        self._check(context)
        return pb.ListEncodersResponse(encoders=self.encoders)

    def RollbackEncoder(self, request: pb.RollbackEncoderRequest, context: Any) -> pb.ListEncodersResponse:
        self._check(context)
        self.asked.append(request)
        if not self.stuck:
            del self.encoders[0]
            self.encoders[0].state = "serving"
        return pb.ListEncodersResponse(encoders=self.encoders)

    def ForgetUser(self, request: pb.ForgetUserRequest, context: Any) -> pb.ForgetUserResponse:
        self._check(context)
        self.asked.append(request)
        return pb.ForgetUserResponse(partition=2, offset=77)

    def _check(self, context: Any) -> None:
        if self.token and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the admin port needs a bearer token")

    def _release(self, name: str) -> pb.Release:
        number = int(name.rpartition("-")[2])
        states = {HELD: pb.RELEASE_STATE_HELD, self.champion: pb.RELEASE_STATE_CHAMPION}
        return pb.Release(
            release=name,
            state=states.get(name, pb.RELEASE_STATE_PREVIOUS),
            slot="a",
            epoch=1,
            created_us=1_760_000_000_000_000,
            metrics={"auc": 0.7 + number / 1000, "champion_auc": 0.7, "ctr": 0.1, "impressions": 500},
        )


class Ranking(ranking_pb2_grpc.RankingServicer):
    """Explains one token; takes items with a price of at most 1,000, and events of all but one item."""

    def __init__(self) -> None:
        self.items: list[ranking_pb2.Item] = []
        self.events: list[Event] = []

    def Explain(self, request: ranking_pb2.ExplainRequest, context: Any) -> ranking_pb2.ExplainResponse:
        if request.attribution_token != "good":
            invalid(context, "attribution_token", "bad_token", "is not base64url")
        part = ranking_pb2.Contribution(feature="user_stats:clicks_1h", value=3.0, contribution=0.25, age_ms=40.0)
        return ranking_pb2.ExplainResponse(
            item_id=request.item_id or "shoe",
            score=0.5,
            served_score=0.5,
            contributions=[part],
            release=CHAMPION,
            query="red hat",
            matched_words=["hat"],
            categories=[ranking_pb2.AskedCategory(category="hats", probability=0.75)],
        )

    def UpsertItems(self, request: ranking_pb2.UpsertItemsRequest, context: Any) -> ranking_pb2.UpsertItemsResponse:
        for place, item in enumerate(request.items):
            if item.price > 1_000:
                invalid(context, f"items[{place}].price", "out_of_range", "is too dear")
        self.items += request.items
        return ranking_pb2.UpsertItemsResponse(upserted=len(request.items))

    def Track(self, request: ranking_pb2.TrackRequest, context: Any) -> ranking_pb2.TrackResponse:
        self.events += request.events
        refused = ranking_pb2.TrackResult(partition=-1, offset=-1, error_field="item_id", error_reason="unknown")
        taken = ranking_pb2.TrackResult(partition=0, offset=1)
        return ranking_pb2.TrackResponse(results=[refused if e.item_id == "bad" else taken for e in request.events])


def invalid(context: Any, name: str, reason: str, detail: str) -> None:
    """Refuse a field as the gateway does."""
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field=name, reason=reason, description=detail)]
    )
    packed = AnyMessage()
    packed.Pack(bad)
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=f"{name}: {detail}", details=[packed])
    context.abort_with_status(rpc_status.to_status(status))


@contextmanager
def serving(admin: Admin | None = None, ranking: Ranking | None = None) -> Iterator[str]:
    """Both services on one port; gives host:port."""
    server = grpc.server(ThreadPoolExecutor(4))
    models_pb2_grpc.add_AdminServicer_to_server(admin or Admin(), server)
    ranking_pb2_grpc.add_RankingServicer_to_server(ranking or Ranking(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def probing(
    service: str, applied: Mapping[str, int], ready: bool = True, ages: tuple[float, ...] = ()
) -> Iterator[str]:
    """The probe server that every service has; gives its URL."""
    health, metrics = Health(), Metrics(service)
    health.ready = ready
    for place, offset in applied.items():
        topic, _, partition = place.rpartition("-")
        health.applied(topic, int(partition), offset)
    freshness = metrics.histogram("freshness_seconds", "a test's", ("view",))
    for age in ages:
        freshness.labels("user_stats").observe(age)
    server = serve(health, metrics.registry, 0)
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@dataclass(frozen=True)
class Ended:
    """What a command said and ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None) -> Ended:
    """Run `freshrank` with these arguments, in this process."""
    app: typer.Typer = build()
    ended = CliRunner().invoke(app, arguments, env=env or {}, input=stdin)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ended(ended.exit_code, ended.stdout, ended.stderr)
