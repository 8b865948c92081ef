"""Track, UpsertItems, DeleteItems, forget: nothing is accepted before the log has it."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from freshrank.v1.events_pb2 import Context, Event, EventKind, Inbound
from freshrank.v1.ranking_pb2 import Item

from services.common.content import tokens_of
from services.common.errors import DeadlineExceeded, InvalidInput, TemporaryError
from services.common.ids import partition_of
from services.gateway import track
from services.gateway.limits import Concurrency, TokenBuckets
from services.gateway.track import FIRST_US, MOST_AHEAD_US
from tests.gateway.shop import NOW, SECOND, Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, items=1)


def event(**fields: object) -> Event:
    base: dict[str, object] = {"event_id": "e", "kind": "EVENT_KIND_CLICK", "user_id": "ada", "item_id": "x"}
    return Event(**{**base, **fields})  # type: ignore[arg-type]


BAD_EVENTS = {
    "no id": (event(event_id=""), "event_id", "missing_field"),
    "no user": (event(user_id=""), "user_id", "missing_field"),
    "no kind": (event(kind=0), "kind", "missing_field"),
    "unknown kind": (event(kind=77), "kind", "unknown_kind"),
    "no item": (event(item_id=""), "item_id", "missing_field"),
    "search for nothing": (event(kind=6, item_id=""), "query", "missing_field"),
    "rate without rating": (event(kind=5), "rating", "missing_field"),
    "play without length": (event(kind=10), "play_seconds", "missing_field"),
    "rating too high": (event(kind=5, rating=11), "rating", "out_of_range"),
    "rating NaN": (event(kind=5, rating=math.nan), "rating", "out_of_range"),
    "value infinite": (event(value=math.inf), "value", "out_of_range"),
    "quantity negative": (event(quantity=-1), "quantity", "out_of_range"),
    "play share above 1": (event(kind=10, play_share=1.5), "play_share", "out_of_range"),
    "play seconds negative": (event(kind=10, play_seconds=-3), "play_seconds", "out_of_range"),
    "time in seconds": (event(event_time_us=NOW // SECOND), "event_time_us", "out_of_range"),
    "time in the future": (event(event_time_us=NOW + MOST_AHEAD_US + 1), "event_time_us", "out_of_range"),
    "time negative": (event(event_time_us=-1), "event_time_us", "out_of_range"),
    "id too long": (event(event_id="x" * 300), "event_id", "too_large"),
    "user with newline": (event(user_id="a\nb"), "user_id", "malformed"),
    "item too long": (event(item_id="x" * 300), "item_id", "too_large"),
    "session with zero byte": (event(session_id="a\0b"), "session_id", "malformed"),
    "query too long": (event(query="x" * 2000), "query", "too_large"),
    "token too long": (event(attribution_token="x" * 2000), "attribution_token", "too_large"),
    "source too long": (event(source="x" * 300), "source", "too_large"),
    "region too long": (event(context=Context(region="x" * 300)), "region", "too_large"),
    "device with bell": (event(context=Context(device="\a")), "device", "malformed"),
}


@pytest.mark.parametrize(("bad", "field", "reason"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_a_bad_event_is_refused_alone_with_its_field(shop: Shop, bad: Event, field: str, reason: str) -> None:
    good = event(event_id="good")
    outcomes = await shop.intake.track([good, bad], NOW, 1.0)
    assert outcomes[0].fault is None
    assert outcomes[0].offset == 0
    fault = outcomes[1].fault
    assert fault is not None
    assert (fault.field, fault.reason, outcomes[1].offset) == (field, reason, -1)


def test_there_are_at_least_25_named_bad_events() -> None:
    assert len(BAD_EVENTS) >= 25


async def test_events_of_a_call_travel_in_one_record_per_partition_and_keep_their_order(shop: Shop) -> None:
    events = [event(event_id=str(n), user_id=f"u{n % 7}") for n in range(50)]
    outcomes = await shop.intake.track(events, NOW, 1.0)
    assert len(shop.sends.events) <= 4
    seen: list[str] = []
    for partition, inbound in shop.sends.events:
        assert inbound.received_us == NOW
        assert {partition_of(e.user_id, 4) for e in inbound.batch.events} == {partition}
        ids = [int(e.event_id) for e in inbound.batch.events]
        assert ids == sorted(ids)
        seen += [e.event_id for e in inbound.batch.events]
    assert sorted(seen, key=int) == [str(n) for n in range(50)]
    assert [o.partition for o in outcomes] == [partition_of(e.user_id, 4) for e in events]


def test_in_a_replay_the_received_time_is_the_event_time_and_a_record_holds_one_moment() -> None:
    events = [event(event_id="1", event_time_us=FIRST_US + 1), event(event_id="2", event_time_us=FIRST_US + 2)]
    parcels, faults = track.sort([*events, event(event_id="3")], 1, NOW, replay=True)
    assert not faults
    assert [p.inbound.received_us for p in parcels] == [FIRST_US + 1, FIRST_US + 2, NOW]


async def test_a_log_that_refuses_or_keeps_silent_is_an_error_that_says_retry(shop: Shop) -> None:
    shop.sends.failure = TemporaryError("no broker")
    with pytest.raises(TemporaryError):
        await shop.intake.track([event()], NOW, 1.0)
    shop.sends.failure, shop.sends.silent = None, True
    with pytest.raises(DeadlineExceeded):
        await shop.intake.upsert([Item(item_id="x")], NOW, 0.001)


async def test_an_item_becomes_an_entry_with_content_and_absent_numbers_stay_absent(shop: Shop) -> None:
    item = Item(item_id="x", title="Red Shoe", categories=["shoes"], brand="b")
    assert await shop.intake.upsert([item], NOW, 1.0) == 1
    (name, entry) = shop.sends.items[0]
    assert name == "x"
    assert entry is not None
    assert math.isnan(entry.price)
    assert (entry.stock, entry.published_us, entry.updated_us) == (-1, NOW, NOW)
    assert list(entry.content) == tokens_of(["shoes"], "b", "Red Shoe")


async def test_deleting_sends_a_tombstone_once_per_item(shop: Shop) -> None:
    assert await shop.intake.delete(["x", "y", "x"], 1.0) == 2
    assert shop.sends.items == [("x", None), ("y", None)]


async def test_a_forget_goes_onto_the_log_and_out_of_memory(shop: Shop) -> None:
    assert await shop.intake.forget("ada", 5, NOW, 1.0) == (0, 0)
    (_, inbound) = shop.sends.events[0]
    assert (inbound.forget.user_id, inbound.forget.before_us) == ("ada", 5)
    assert shop.forgotten == ["ada"]


async def test_ten_thousand_odd_events_crash_nothing(shop: Shop) -> None:
    dice = random.Random(5)
    texts: list[Callable[[], str]] = [
        lambda: "",
        lambda: "x" * dice.randrange(400),
        lambda: chr(dice.randrange(55_000)),
    ]
    kinds = [*EventKind.values(), 99, -1]
    events = []
    for _ in range(10_000):
        odd = Event(kind=dice.choice(kinds), event_time_us=dice.randrange(-(2**63), 2**63))  # type: ignore[arg-type]
        for name in ("event_id", "user_id", "session_id", "item_id", "query", "attribution_token", "source"):
            setattr(odd, name, dice.choice(texts)())
        for name in ("value", "quantity", "rating", "play_seconds", "play_share"):
            if dice.random() < 0.3:
                setattr(odd, name, dice.choice([math.nan, math.inf, -1.0, 0.5, 1e30]))
        events.append(Event.FromString(odd.SerializeToString()))
    parcels, faults = track.sort(events, 4, NOW, replay=False)
    assert sum(len(p.indexes) for p in parcels) + len(faults) == 10_000
    assert all(isinstance(fault, InvalidInput) and fault.field for fault in faults.values())
    assert all(Inbound.FromString(p.inbound.SerializeToString()) == p.inbound for p in parcels)


def test_a_bucket_lets_bursts_through_then_its_rate() -> None:
    buckets = TokenBuckets(rate=2, burst=3)
    taken = 0
    for tenth in range(20):
        try:
            buckets.take("ada", tenth / 10)
            taken += 1
        except TemporaryError:
            pass
    buckets.take("bob", 0.0)
    assert taken == 3 + 3


def test_a_gate_counts_who_is_inside() -> None:
    gate = Concurrency(2)
    with gate.enter(), gate.enter(), pytest.raises(TemporaryError), gate.enter():
        pass
    assert gate.inside == 0
