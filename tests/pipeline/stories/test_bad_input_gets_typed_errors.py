"""Nonsense from a shop or a foreign producer: one typed refusal each, and everybody else is served on."""

import time

import grpc
import pytest
from confluent_kafka import Producer
from freshrank.v1 import events_pb2, ranking_pb2

from services.common.ids import partition_of
from services.common.topics import EVENTS
from tests.pipeline.loop import Loop

pytestmark = pytest.mark.pipeline

VIEW = events_pb2.EVENT_KIND_VIEW
NAN = float("nan")

REFUSED = {
    "user_id": {"user_id": ""},
    "event_id": {"event_id": ""},
    "kind": {"kind": 77},
    "rating": {"kind": events_pb2.EVENT_KIND_RATE, "rating": NAN},
    "event_time_us": {"event_time_us": 1},
    "item_id": {"item_id": ""},
    "play_seconds": {"kind": events_pb2.EVENT_KIND_PLAY},
    "play_share": {"kind": events_pb2.EVENT_KIND_PLAY, "play_share": 1.5},
    "query": {"kind": events_pb2.EVENT_KIND_SEARCH, "item_id": ""},
}
"""Field that is named -> what is wrong with an event."""


async def test_the_gateway_refuses_each_bad_event_by_field_and_takes_its_neighbours(loop: Loop) -> None:
    await loop.serving()
    good = [event(f"fine-{number}") for number in range(len(REFUSED))]
    bad = [event(**{"event_id": f"wrong-{number}", **change}) for number, change in enumerate(REFUSED.values())]
    async with loop.calling() as api:
        results = await api.track([one for pair in zip(good, bad, strict=True) for one in pair])
    fields = [result.error_field for result in results[1::2]]
    assert fields == list(REFUSED), fields
    assert all(result.error_reason and result.error_detail and result.offset == -1 for result in results[1::2])
    assert [result.error_reason for result in results[::2]] == [""] * len(good)


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Recommend", ranking_pb2.RecommendRequest(), "shopper.user_id"),
        ("Recommend", ranking_pb2.RecommendRequest(shopper={"user_id": "a"}, page_size=101), "page_size"),
        ("Recommend", ranking_pb2.RecommendRequest(shopper={"user_id": "a"}, page_token="x"), "page_token"),
        ("Rank", ranking_pb2.RankRequest(shopper={"user_id": "a"}), "candidates"),
        ("Rank", ranking_pb2.RankRequest(shopper={"user_id": "a"}, candidates=[{"item_id": ""}]), "candidates[0]"),
        ("UpsertItems", ranking_pb2.UpsertItemsRequest(items=[{"item_id": "i", "price": NAN}]), "items[0].price"),
        ("Explain", ranking_pb2.ExplainRequest(attribution_token="no"), "attribution_token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_calls_are_invalid_arguments_that_name_the_field(
    loop: Loop, method: str, request_: object, field: str
) -> None:
    async with loop.calling() as api:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(api.stub, method)(request_, timeout=5)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (raised.value.details() or "")


async def test_records_of_a_foreign_producer_become_one_dead_letter_each_and_lose_nothing(loop: Loop) -> None:
    await loop.serving()
    records = {
        b"\xff\xfe\xfd": ("malformed", "record"),
        inbound(event("foreign-1", user_id="")): ("missing_field", "user_id"),
        inbound(event("foreign-2", kind=77)): ("unknown_kind", "kind"),
        inbound(event("foreign-3", event_time_us=1)): ("out_of_range", "event_time_us"),
        inbound(event("foreign-5", value=-5.0)): ("out_of_range", "value"),
        inbound(event("foreign-6", quantity=0.0)): ("out_of_range", "quantity"),
        inbound(event("foreign-4", kind=events_pb2.EVENT_KIND_RATE, rating=NAN)): ("out_of_range", "rating"),
        b"": ("missing_field", "record"),
    }
    partition = partition_of("foreigner", loop.partitions)
    places: dict[bytes, tuple[int, int]] = {}
    producer = Producer({"bootstrap.servers": loop.bootstrap})
    for record in records:
        producer.produce(
            EVENTS.name,
            record,
            key=b"foreigner",
            partition=partition,
            on_delivery=lambda _, m, r=record: places.update({r: (m.partition(), m.offset())}),
        )
    producer.flush(10)
    await loop.follower.caught_up()
    letters = [letter for letter in loop.dead_letters() if letter.stage == "ingest"]
    found = {place: [x for x in letters if (x.partition, x.offset) == place] for place in places.values()}
    assert {r: [(x.reason, x.field) for x in found[places[r]]] for r in records} == {
        record: [verdict] for record, verdict in records.items()
    }
    assert await loop.ledger() == {}


def event(event_id: str, **changes: object) -> events_pb2.Event:
    fields = {
        "event_id": event_id,
        "kind": VIEW,
        "user_id": "foreigner",
        "item_id": "s1",
        "event_time_us": time.time_ns() // 1000,
        "source": "story",
    }
    return events_pb2.Event(**{**fields, **changes})  # type: ignore[arg-type]


def inbound(one: events_pb2.Event) -> bytes:
    return bytes(events_pb2.Inbound(event=one, received_us=time.time_ns() // 1000).SerializeToString())
