"""The services over real gRPC in one process: codes, details, deadlines, limits, health."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from freshrank.v1 import events_pb2 as ev
from freshrank.v1 import models_pb2, models_pb2_grpc, ranking_pb2_grpc
from freshrank.v1 import ranking_pb2 as pb
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from services.common import errors
from services.common.tracing import Tracing
from services.gateway.checks import Times
from services.gateway.grpc.admin import AdminServicer
from services.gateway.grpc.guard import Bearer, Guard, status_of
from services.gateway.grpc.ranking import Deadlines, RankingServicer
from services.gateway.grpc.server import ADMIN, RANKING, Server, Tls
from services.gateway.limits import Concurrency, TokenBuckets
from services.gateway.operate import Operations
from tests.gateway.shop import NOW, Shop

ADA = pb.Shopper(user_id="ada", session_id="visit")


class Running:
    """Both servers on free ports, and stubs to call them."""

    def __init__(
        self,
        shop: Shop,
        replay: bool = False,
        concurrency: int = 64,
        rate: float = 0.0,
        tracing: Tracing | None = None,
    ) -> None:
        self.shop, self.times_seen = shop, list[int]()
        self.tracing = tracing or Tracing("gateway")
        deadlines = Deadlines(0.5, 1.0, 2.0)
        self.ranking = Server(RANKING, [self._guard(RANKING, concurrency)], reflect=True)
        servicer = RankingServicer(
            shop.ranker,
            shop.searcher,
            shop.intake,
            shop.explainer,
            deadlines,
            TokenBuckets(rate, 2),
            lambda: Times(NOW, replay),
            self.times_seen.append,
        )
        ranking_pb2_grpc.add_RankingServicer_to_server(servicer, self.ranking.grpc)
        self.admin = Server(ADMIN, [Bearer("secret"), self._guard(ADMIN, 16)], reflect=False)
        folder = shop.table._folder.parent
        operations = Operations(folder, shop.sends, shop.intake, lambda: shop.state.worlds, lambda: "c1")
        models_pb2_grpc.add_AdminServicer_to_server(AdminServicer(operations, deadlines, lambda: NOW), self.admin.grpc)

    def _guard(self, service: str, concurrency: int) -> Guard:
        return Guard(self.shop.meters, self.tracing, Concurrency(concurrency), (service,))

    async def __aenter__(self) -> "Running":
        port = await self.ranking.open("127.0.0.1", 0, Tls())
        admin = await self.admin.open("127.0.0.1", 0, Tls())
        await self.ranking.ready(True)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.admin_channel = grpc.aio.insecure_channel(f"127.0.0.1:{admin}")
        self.stub: Any = ranking_pb2_grpc.RankingStub(self.channel)
        self.operator: Any = models_pb2_grpc.AdminStub(self.admin_channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.admin_channel.close()
        await self.ranking.drain(1)
        await self.admin.drain(1)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with Running(Shop(tmp_path)) as it:
        yield it


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def violations(error: Any) -> list[tuple[str, str]]:
    found = []
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [(v.field, v.reason) for v in bad.field_violations]
    return found


def rank(**fields: Any) -> pb.RankRequest:
    return pb.RankRequest(**{"shopper": ADA, "candidates": [pb.Candidate(item_id="i1")], **fields})


def item(**fields: Any) -> pb.UpsertItemsRequest:
    return pb.UpsertItemsRequest(items=[pb.Item(**{"item_id": "x", **fields})])


def vector(name: str, values: list[float]) -> pb.UpsertItemsRequest:
    return item(vectors=[pb.ItemVector(name=name, values=values)])


def candidate(**fields: Any) -> pb.RankRequest:
    return rank(candidates=[pb.Candidate(**{"item_id": "i1", **fields})])


LONG = "x" * 257
BAD_CALLS = {
    "rank nobody": ("Rank", rank(shopper=pb.Shopper()), "shopper.user_id"),
    "rank a long user": ("Rank", rank(shopper=pb.Shopper(user_id=LONG)), "shopper.user_id"),
    "rank a user with a newline": ("Rank", rank(shopper=pb.Shopper(user_id="a\n")), "shopper.user_id"),
    "rank a long session": ("Rank", rank(shopper=pb.Shopper(user_id="a", session_id=LONG)), "shopper.session_id"),
    "rank from a long region": (
        "Rank",
        rank(shopper=pb.Shopper(user_id="a", context=ev.Context(region=LONG))),
        "shopper.context.region",
    ),
    "rank nothing": ("Rank", pb.RankRequest(shopper=ADA), "candidates"),
    "rank too many": ("Rank", rank(candidates=[pb.Candidate(item_id=str(n)) for n in range(1001)]), "candidates"),
    "rank one twice": ("Rank", rank(candidates=[pb.Candidate(item_id="a")] * 2), "candidates"),
    "rank an item without id": ("Rank", candidate(item_id=""), "candidates[0].item_id"),
    "rank a long item": ("Rank", candidate(item_id=LONG), "candidates[0].item_id"),
    "rank an item with a zero byte": ("Rank", candidate(item_id="a\0"), "candidates[0].item_id"),
    "rank at a negative price": ("Rank", candidate(price=-1), "candidates[0].price"),
    "rank at no number": ("Rank", candidate(price=float("nan")), "candidates[0].price"),
    "rank at an infinite bid": ("Rank", candidate(bid=float("inf")), "candidates[0].bid"),
    "rank a long campaign": ("Rank", candidate(campaign=LONG), "candidates[0].campaign"),
    "rank in an odd placement": ("Rank", rank(placement="a b"), "placement"),
    "rank in another time": ("Rank", rank(request_time_us=NOW), "request_time_us"),
    "recommend to nobody": ("Recommend", pb.RecommendRequest(), "shopper.user_id"),
    "recommend too much": ("Recommend", pb.RecommendRequest(shopper=ADA, page_size=101), "page_size"),
    "recommend an empty category": ("Recommend", pb.RecommendRequest(shopper=ADA, categories=[""]), "categories[0]"),
    "recommend but for too many": (
        "Recommend",
        pb.RecommendRequest(shopper=ADA, exclude=[str(n) for n in range(1001)]),
        "exclude",
    ),
    "recommend a page of nothing": ("Recommend", pb.RecommendRequest(shopper=ADA, page_token="abc"), "page_token"),
    "similar to nothing": ("Similar", pb.SimilarRequest(), "item_id"),
    "similar for nobody": ("Similar", pb.SimilarRequest(item_id="i1", shopper=pb.Shopper()), "shopper.user_id"),
    "similar too much": ("Similar", pb.SimilarRequest(item_id="i1", page_size=1000), "page_size"),
    "track nothing": ("Track", pb.TrackRequest(), "events"),
    "track too much": ("Track", pb.TrackRequest(events=[ev.Event()] * 1001), "events"),
    "upsert nothing": ("UpsertItems", pb.UpsertItemsRequest(), "items"),
    "upsert without id": ("UpsertItems", item(item_id=""), "items[0].item_id"),
    "upsert twice": ("UpsertItems", pb.UpsertItemsRequest(items=[pb.Item(item_id="x")] * 2), "items"),
    "upsert at a negative price": ("UpsertItems", item(price=-1), "items[0].price"),
    "upsert a negative stock": ("UpsertItems", item(stock=-1), "items[0].stock"),
    "upsert a book as title": ("UpsertItems", item(title="x" * 3000), "items[0].title"),
    "upsert an empty category": ("UpsertItems", item(categories=["a", ""]), "items[0].categories[1]"),
    "upsert an unknown vector": ("UpsertItems", vector("sound", [1.0] * 16), "items[0].vectors[0].name"),
    "upsert a short vector": ("UpsertItems", vector("image", [1.0] * 15), "items[0].vectors[0].values"),
    "upsert a vector with NaN": ("UpsertItems", vector("image", [math.nan] * 16), "items[0].vectors[0].values"),
    "upsert an infinite vector": ("UpsertItems", vector("image", [math.inf] * 16), "items[0].vectors[0].values"),
    "upsert a vector of zeros": ("UpsertItems", vector("image", [0.0] * 16), "items[0].vectors[0].values"),
    "upsert a vector twice": (
        "UpsertItems",
        item(vectors=[pb.ItemVector(name="image", values=[1.0] * 16)] * 2),
        "items[0].vectors",
    ),
    "upsert before time": ("UpsertItems", item(published_us=-5), "items[0].published_us"),
    "delete nothing": ("DeleteItems", pb.DeleteItemsRequest(), "item_ids"),
    "delete an empty id": ("DeleteItems", pb.DeleteItemsRequest(item_ids=[""]), "item_ids[0]"),
    "explain nothing": ("Explain", pb.ExplainRequest(), "attribution_token"),
    "explain gibberish": ("Explain", pb.ExplainRequest(attribution_token="abc"), "attribution_token"),
    "explain too much": ("Explain", pb.ExplainRequest(attribution_token="abc", top=5000), "top"),
}


@pytest.mark.parametrize(("method", "request_", "field"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
async def test_a_bad_call_is_refused_with_the_name_of_its_field(
    running: Running, method: str, request_: Any, field: str
) -> None:
    error = await failure(getattr(running.stub, method)(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in [name for name, _ in violations(error)]
    assert field in error.details()
    assert not running.shop.sends.events
    assert not running.shop.sends.items


def test_there_are_at_least_25_named_bad_calls() -> None:
    assert len(BAD_CALLS) >= 25


async def test_every_wrong_field_is_named_at_once(running: Running) -> None:
    error = await failure(running.stub.Rank(pb.RankRequest(placement="a b")))
    assert {name for name, _ in violations(error)} == {"shopper.user_id", "placement", "candidates"}


async def test_a_ranking_travels_whole(running: Running) -> None:
    request = pb.RankRequest(
        shopper=ADA, candidates=[pb.Candidate(item_id=f"i{n}", prior_rank=n + 1) for n in range(9)]
    )
    answer = await running.stub.Rank(request)
    assert [r.item_id for r in answer.results] == [f"i{n}" for n in range(8, -1, -1)]
    assert set(answer.results[0].objective_scores) == {"click", "cart", "purchase"}
    assert (answer.release, answer.degradation) == ("r1", ev.DEGRADATION_NONE)
    assert answer.attribution_token
    explained = await running.stub.Explain(pb.ExplainRequest(attribution_token=answer.attribution_token, top=3))
    assert explained.item_id == "i8"
    assert explained.score == pytest.approx(explained.served_score)
    assert explained.contributions[0].feature == "cross:price"
    assert running.times_seen == [NOW]


async def test_a_call_without_a_deadline_gets_one_and_is_told(running: Running) -> None:
    call = running.stub.Rank(rank())
    await call
    assert ("freshrank-deadline-ms", "500") in [(k, v) for k, v in await call.trailing_metadata()]
    call = running.stub.Rank(rank(), timeout=1)
    await call
    assert not await call.trailing_metadata()


async def test_search_answers_with_what_it_looked_for(running: Running) -> None:
    answer = await running.stub.Search(pb.SearchRequest(shopper=ADA, query=" Thimg 7 ", facets=True))
    assert (answer.query, answer.corrected_query, answer.results[0].item_id) == ("thimg 7", "thing 7", "i7")
    assert answer.attribution_token
    assert {facet.name for facet in answer.facets} == {"category", "brand", "price"}
    assert answer.found == 30


@pytest.mark.parametrize("prefix", ["thi", "THI"])
async def test_a_beginning_is_completed(running: Running, prefix: str) -> None:
    answer = await running.stub.Suggest(pb.SuggestRequest(prefix=prefix))
    assert list(answer.queries) == ["thing"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SearchRequest(shopper=ADA), "query"),
        (pb.SearchRequest(shopper=ADA, query=" \t "), "query"),
        (pb.SearchRequest(shopper=ADA, query="?!"), "query"),
        (pb.SearchRequest(shopper=ADA, query="👟👠"), "query"),
        (pb.SearchRequest(shopper=ADA, query="x" * 10_000), "query"),
        (pb.SearchRequest(query="x"), "shopper.user_id"),
        (pb.SearchRequest(shopper=ADA, query="x", page_size=101), "page_size"),
        (pb.SearchRequest(shopper=ADA, query="x", page_token="none"), "page_token"),
        (pb.SearchRequest(shopper=ADA, query="x", filter=pb.Filter(categories=["\n"])), "filter.categories[0]"),
        (pb.SearchRequest(shopper=ADA, query="x", filter=pb.Filter(brands=[""])), "filter.brands[0]"),
        (pb.SearchRequest(shopper=ADA, query="x", filter=pb.Filter(price_from=-1)), "filter.price_from"),
        (pb.SearchRequest(shopper=ADA, query="x", filter=pb.Filter(price_to=float("nan"))), "filter.price_to"),
        (pb.SearchRequest(shopper=ADA, query="x", filter=pb.Filter(price_from=2, price_to=1)), "filter.price_from"),
    ],
)
async def test_a_bad_search_names_its_field(running: Running, request_: pb.SearchRequest, field: str) -> None:
    error = await failure(running.stub.Search(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in error.details()


@pytest.mark.parametrize(
    "query", ["shoes\x00\x07", "\u202eנעליים", "👟 hat", "a AND (b OR c:*", "'; drop table --", "\u200b thing"]
)
async def test_whatever_people_type_is_answered(running: Running, query: str) -> None:
    answer = await running.stub.Search(pb.SearchRequest(shopper=ADA, query=query))
    assert answer.request_id


async def test_tracking_answers_each_event_with_its_place_or_its_fault(running: Running) -> None:
    good = ev.Event(event_id="1", kind=ev.EVENT_KIND_CLICK, user_id="ada", item_id="i1")
    answer = await running.stub.Track(pb.TrackRequest(events=[ev.Event(), good]))
    assert (answer.results[0].offset, answer.results[0].error_field) == (-1, "event_id")
    assert (answer.results[1].offset, answer.results[1].error_reason) == (0, "")


async def test_what_a_broken_log_costs_is_unavailable_and_when_to_retry(running: Running) -> None:
    running.shop.sends.failure = errors.TemporaryError("no broker")
    error = await failure(running.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["x"])))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)


async def test_too_many_at_once_are_refused_at_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.sends.silent = True
    async with Running(shop, concurrency=1) as running:
        slow = asyncio.ensure_future(running.stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["x"]), timeout=5))
        while not shop.sends.items:
            await asyncio.sleep(0)
        error = await failure(running.stub.Rank(rank()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        slow.cancel()


async def test_a_user_who_asks_too_often_is_refused_others_are_not(tmp_path: Path) -> None:
    async with Running(Shop(tmp_path), rate=0.001) as running:
        for _ in range(2):
            await running.stub.Rank(rank())
        error = await failure(running.stub.Rank(rank()))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await running.stub.Rank(rank(shopper=pb.Shopper(user_id="bob")))


async def test_in_a_replay_the_request_brings_its_time(tmp_path: Path) -> None:
    async with Running(Shop(tmp_path), replay=True) as running:
        assert (await failure(running.stub.Rank(rank()))).code() is grpc.StatusCode.INVALID_ARGUMENT
        await running.stub.Rank(rank(request_time_us=NOW + 7))
        assert running.shop.served[0].time_us == NOW + 7


async def test_health_follows_readiness(running: Running) -> None:
    health: Any = health_pb2_grpc.HealthStub(running.channel)
    request = health_pb2.HealthCheckRequest(service=RANKING)
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
    await running.ranking.ready(False)
    assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_the_service(running: Running) -> None:
    def listed() -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{running.ranking.port}") as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert RANKING in await asyncio.to_thread(listed)


async def test_the_admin_port_wants_its_token(running: Running) -> None:
    error = await failure(running.operator.GetStatus(models_pb2.GetStatusRequest()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    wrong = (("authorization", "Bearer guess"),)
    error = await failure(running.operator.GetStatus(models_pb2.GetStatusRequest(), metadata=wrong))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_operator_sees_what_is_served_and_has_a_shopper_forgotten(running: Running) -> None:
    key = (("authorization", "Bearer secret"),)
    status = await running.operator.GetStatus(models_pb2.GetStatusRequest(), metadata=key)
    assert (status.champion, status.slot, status.epoch) == ("r1", "a", 1)
    place = await running.operator.ForgetUser(models_pb2.ForgetUserRequest(user_id="ada"), metadata=key)
    assert (place.offset, running.shop.forgotten) == (0, ["ada"])
    error = await failure(running.operator.ForgetUser(models_pb2.ForgetUserRequest(), metadata=key))
    assert violations(error) == [("user_id", "missing_field")]
    error = await failure(
        running.operator.RollbackRelease(models_pb2.RollbackReleaseRequest(release="x"), metadata=key)
    )
    assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("f", "r"), "INVALID_ARGUMENT"),
        (errors.NotFound("x"), "NOT_FOUND"),
        (errors.Conflict("x"), "FAILED_PRECONDITION"),
        (errors.CorruptState("x"), "DATA_LOSS"),
        (errors.DeadlineExceeded("x"), "DEADLINE_EXCEEDED"),
        (errors.Overloaded("x"), "RESOURCE_EXHAUSTED"),
        (errors.TemporaryError("x"), "UNAVAILABLE"),
        (errors.PermanentError("x"), "FAILED_PRECONDITION"),
        (ValueError("secret of the house"), "INTERNAL"),
    ],
)
def test_each_error_has_one_code_and_strangers_tell_nothing(error: Exception, code: str) -> None:
    status = status_of(error)
    assert getattr(grpc.StatusCode, code).value[0] == status.code
    assert "secret" not in status.message


async def test_calls_are_counted_by_code(running: Running) -> None:
    await running.stub.Rank(rank())
    await failure(running.stub.Rank(pb.RankRequest()))
    count = running.shop.meters.registry.get_sample_value
    name = "freshrank_gateway_requests_total"
    assert count(name, {"method": "Rank", "code": "OK"}) == 1
    assert count(name, {"method": "Rank", "code": "INVALID_ARGUMENT"}) == 1


def test_tls_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput):
        Tls(cert=tmp_path / "cert.pem").credentials()
    with pytest.raises(errors.InvalidInput, match="cannot be read"):
        Tls(tmp_path / "cert.pem", tmp_path / "key.pem").credentials()
