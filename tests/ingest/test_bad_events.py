"""Bad records: each is one dead letter that names the field, and nothing else happens."""

import random

import pytest
from freshrank.v1.events_pb2 import (
    Context,
    Event,
    EventBatch,
    EventKind,
    Forget,
    Forwarded,
    Impression,
    ImpressionItem,
    Inbound,
    Tick,
)
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import Message
from tests.ingest.makers import HOUR, T0, event, fold, impression, inbound, letters, message, rows, run

NAN, INF = float("nan"), float("inf")
YEAR = 365 * 24 * HOUR


def _play(**changes: object) -> Event:
    return event(kind=EventKind.EVENT_KIND_PLAY, **changes)


def _items(**changes: object) -> Impression:
    fields = {"item_id": "item-1", "features": [1.0], "shown": True}
    return impression(items=[ImpressionItem(**{**fields, **changes})])


BAD = [
    pytest.param(b"\xff\xfe\xfd", "malformed", "record", id="no protobuf"),
    pytest.param(inbound(event()).SerializeToString()[:-3], "malformed", "record", id="truncated"),
    pytest.param(b"\x0a\x04\x0a\x02\xff\xfe", "malformed", "record", id="not UTF-8"),
    pytest.param(b"", "missing_field", "record", id="empty"),
    pytest.param(Inbound(received_us=T0), "missing_field", "record", id="no kind of record"),
    pytest.param(b"\x0a" + b"x" * 1_048_577, "too_large", "record", id="above a megabyte"),
    pytest.param(inbound(event(), 5), "out_of_range", "received_us", id="received in 1970"),
    pytest.param(inbound(event(), T0 + 100 * YEAR), "out_of_range", "received_us", id="received in 2125"),
    pytest.param(event(event_id=""), "missing_field", "event_id", id="no event id"),
    pytest.param(event(event_id="x" * 129), "too_large", "event_id", id="long event id"),
    pytest.param(event(user_id=""), "missing_field", "user_id", id="no user"),
    pytest.param(event(user_id="u" * 5000), "too_large", "user_id", id="long user"),
    pytest.param(event(user_id="a\nb"), "malformed", "user_id", id="line break in user"),
    pytest.param(event(user_id=" ada"), "malformed", "user_id", id="space before user"),
    pytest.param(event(session_id="\0"), "malformed", "session_id", id="zero byte in session"),
    pytest.param(event(session_id="s" * 200), "too_large", "session_id", id="long session"),
    pytest.param(event(item_id=""), "missing_field", "item_id", id="view of nothing"),
    pytest.param(event(item_id="a\u202eb"), "malformed", "item_id", id="direction override in item"),
    pytest.param(event(item_id="i" * 1000), "too_large", "item_id", id="long item"),
    pytest.param(event(kind=0), "missing_field", "kind", id="no kind"),
    pytest.param(event(kind=77), "unknown_kind", "kind", id="unknown kind"),
    pytest.param(event(kind=-1), "unknown_kind", "kind", id="negative kind"),
    pytest.param(event(kind=100), "unknown_kind", "kind", id="kind of an internal row"),
    pytest.param(event(kind=EventKind.EVENT_KIND_RATE), "missing_field", "rating", id="rating without a value"),
    pytest.param(event(kind=EventKind.EVENT_KIND_SEARCH, item_id=""), "missing_field", "query", id="empty search"),
    pytest.param(
        event(kind=EventKind.EVENT_KIND_SEARCH, item_id="", query=" \t "), "missing_field", "query", id="blank search"
    ),
    pytest.param(_play(), "missing_field", "play_seconds", id="play without seconds or share"),
    pytest.param(_play(play_seconds=-1.0), "out_of_range", "play_seconds", id="negative seconds"),
    pytest.param(_play(play_seconds=1e9), "out_of_range", "play_seconds", id="played for years"),
    pytest.param(_play(play_share=1.5), "out_of_range", "play_share", id="share above one"),
    pytest.param(_play(play_share=NAN), "out_of_range", "play_share", id="share is NaN"),
    pytest.param(event(rating=11.0), "out_of_range", "rating", id="rating above ten"),
    pytest.param(event(rating=NAN), "out_of_range", "rating", id="rating is NaN"),
    pytest.param(event(value=-5.0), "out_of_range", "value", id="negative value"),
    pytest.param(event(value=INF), "out_of_range", "value", id="infinite value"),
    pytest.param(event(value=NAN), "out_of_range", "value", id="value is NaN"),
    pytest.param(event(quantity=0.0), "out_of_range", "quantity", id="nothing bought"),
    pytest.param(event(quantity=-2.0), "out_of_range", "quantity", id="negative quantity"),
    pytest.param(event(query="q" * 513), "too_large", "query", id="long query"),
    pytest.param(event(attribution_token="t" * 513), "too_large", "attribution_token", id="long token"),
    pytest.param(event(context=Context(region="r" * 65)), "too_large", "context.region", id="long region"),
    pytest.param(event(context=Context(device="r" * 65)), "too_large", "context.device", id="long device"),
    pytest.param(event(context=Context(platform="r" * 65)), "too_large", "context.platform", id="long platform"),
    pytest.param(inbound(event(event_time_us=1), T0), "out_of_range", "event_time_us", id="year 1970"),
    pytest.param(inbound(event(event_time_us=-(2**62)), T0), "out_of_range", "event_time_us", id="before time"),
    pytest.param(inbound(event(event_time_us=T0 + HOUR), T0), "out_of_range", "event_time_us", id="an hour ahead"),
    pytest.param(inbound(event(event_time_us=2**62), T0), "out_of_range", "event_time_us", id="far future"),
    pytest.param(Inbound(batch=EventBatch(), received_us=T0), "missing_field", "batch.events", id="empty batch"),
    pytest.param(
        Inbound(batch=EventBatch(events=[Event()] * 10_001), received_us=T0),
        "too_large",
        "batch.events",
        id="big batch",
    ),
    pytest.param(impression(impression_id=""), "missing_field", "impression_id", id="impression without id"),
    pytest.param(impression(impression_id="g" * 32), "malformed", "impression_id", id="impression id is no hex"),
    pytest.param(impression(impression_id="ab"), "malformed", "impression_id", id="short impression id"),
    pytest.param(impression(user_id=""), "missing_field", "user_id", id="impression without user"),
    pytest.param(impression(session_id="a\tb"), "malformed", "session_id", id="tab in session"),
    pytest.param(inbound(impression(time_us=0), T0), "out_of_range", "time_us", id="impression without time"),
    pytest.param(impression(items=[]), "missing_field", "items", id="nothing shown"),
    pytest.param(_items(shown=False), "missing_field", "items", id="only sampled items"),
    pytest.param(
        impression(items=[ImpressionItem(item_id="i", shown=True)] * 1001), "too_large", "items", id="too many items"
    ),
    pytest.param(_items(item_id=""), "missing_field", "items[0].item_id", id="item without id"),
    pytest.param(_items(features=[1.0, 2.0]), "malformed", "items[0].features", id="features without names"),
    pytest.param(_items(propensity=NAN), "out_of_range", "items[0].propensity", id="propensity is NaN"),
    pytest.param(impression(user_features=[1.0]), "malformed", "user_features", id="user features without names"),
    pytest.param(
        impression(item_feature_ids=range(1001)), "too_large", "item_feature_ids", id="too many feature names"
    ),
    pytest.param(Inbound(forget=Forget(), received_us=T0), "missing_field", "user_id", id="forget nobody"),
    pytest.param(
        Inbound(forget=Forget(user_id="a", before_us=T0 + HOUR), received_us=T0),
        "out_of_range",
        "before_us",
        id="forget the future",
    ),
    pytest.param(Inbound(tick=Tick(time_us=7)), "out_of_range", "time_us", id="tick in 1970"),
    pytest.param(Inbound(tick=Tick(time_us=2**62)), "out_of_range", "time_us", id="tick at the end of time"),
    pytest.param(Inbound(forwarded=Forwarded()), "malformed", "forwarded.inbound", id="nothing sent on"),
    pytest.param(
        Inbound(forwarded=Forwarded(inbound=Inbound(forwarded=Forwarded()))),
        "malformed",
        "forwarded.inbound",
        id="sent on twice",
    ),
    pytest.param(
        Inbound(forwarded=Forwarded(offset=-1, inbound=inbound(event()))),
        "out_of_range",
        "forwarded.offset",
        id="sent on from nowhere",
    ),
]


@pytest.mark.parametrize(("record", "reason", "field"), BAD)
def test_a_bad_record_is_one_dead_letter_that_names_the_field(
    record: bytes | Inbound | Event | Impression, reason: str, field: str
) -> None:
    bad = inbound(record) if isinstance(record, Event | Impression) else record
    good = inbound(event(1, user_id="other"))
    out = run([bad, good])
    (letter,) = letters(out)
    assert (letter.reason, letter.field, letter.stage, letter.offset) == (reason, field, "ingest", 0)
    assert letter.detail
    assert len(letter.payload) <= 65_536
    assert [r["user"] for r in rows(out)] == ["other"]


def test_a_bad_event_in_a_batch_is_refused_alone_and_can_be_sent_again() -> None:
    events = [event(0), event(1, kind=0), event(2, rating=NAN), event(3)]
    out = run([Inbound(batch=EventBatch(events=events), received_us=T0 + HOUR)])
    assert [(x.index, x.field) for x in letters(out)] == [(1, "kind"), (2, "rating")]
    assert Inbound.FromString(letters(out)[0].payload).event == events[1]
    assert [r["src_index"] for r in rows(out)] == [0, 3]


def test_a_record_received_long_after_the_brokers_time_cannot_move_the_clock() -> None:
    on = fold()
    out = on.apply([message(0, inbound(event(), T0 + HOUR), T0 // 1000)])
    assert [(x.reason, x.field) for x in letters(out)] == [("out_of_range", "received_us")]
    assert on.clock_us == 0


def test_in_a_replay_an_event_that_nothing_dates_is_refused() -> None:
    out = fold(log_time=True).apply([message(0, Inbound(event=event(event_time_us=0)), T0 // 1000)])
    assert [(x.reason, x.field) for x in letters(out)] == [("missing_field", "event_time_us")]


def _once_each(values: list[bytes]) -> None:
    """Each event leaves one trace: a row, a letter, a record sent on, or a count; a refused batch is one letter."""
    on = fold(partitions=3)
    for offset, value in enumerate(values):
        out = on.apply([Message(offset, value, T0 // 1000)])
        assert on.next_offset == offset + 1
        assert sum(out.outcomes.values()) in {1, _events(value)}
        kept = sum(out.outcomes[name] for name in ("event", "impression", "forget", "tick"))
        assert len(rows(out)) == kept
        assert [letter.offset for letter in letters(out)] == [offset] * out.outcomes["dead"]
        assert len(out.forwards) == out.outcomes["forwarded"]
        assert all(letter.reason and letter.field for letter in letters(out))


def _events(value: bytes) -> int:
    try:
        return max(1, len(Inbound.FromString(value).batch.events))
    except DecodeError:
        return 1


def _garbage(seed: int, count: int) -> list[bytes]:
    """Noise, and real records with bytes changed, cut, repeated or put together."""
    noise = random.Random(seed)
    seeds = [
        inbound(event(1, value=3.0, rating=4.0, query="shoes", context=Context(region="DE"))).SerializeToString(),
        inbound(impression(2)).SerializeToString(),
        Inbound(batch=EventBatch(events=[event(3), event(4)]), received_us=T0).SerializeToString(),
        Inbound(forget=Forget(user_id="user-1", before_us=T0), received_us=T0).SerializeToString(),
        Inbound(forwarded=Forwarded(partition=1, offset=5, inbound=inbound(event(6)))).SerializeToString(),
    ]
    return [_mutate(noise, noise.choice(seeds)) for _ in range(count)]


def _mutate(noise: random.Random, value: bytes) -> bytes:
    data = bytearray(value)
    for _ in range(noise.randint(1, 4)):
        at = noise.randrange(len(data) + 1)
        what = noise.randrange(4)
        if what == 0 and data:
            data[min(at, len(data) - 1)] = noise.randrange(256)
        elif what == 1:
            data = data[:at]
        elif what == 2:
            data[at:at] = noise.randbytes(noise.randint(1, 8))
        else:
            data += data[at:]
    return bytes(data[:5000])


def test_a_thousand_garbled_records_crash_nothing_and_leave_one_trace_each() -> None:
    _once_each(_garbage(seed=1, count=1_000))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 14))
def test_ten_thousand_more_garbled_records_crash_nothing(seed: int) -> None:
    _once_each(_garbage(seed, 1_000))


numbers = st.floats(width=32)
texts = st.text(max_size=20)
times = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(T0 - 2 * HOUR, T0 + 2 * HOUR))
any_event = st.builds(
    Event,
    event_id=texts,
    kind=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 10),
    user_id=texts,
    session_id=texts,
    item_id=texts,
    event_time_us=times,
    value=st.none() | numbers,
    quantity=st.none() | numbers,
    rating=st.none() | numbers,
    play_seconds=st.none() | numbers,
    play_share=st.none() | numbers,
    query=texts,
    attribution_token=texts,
)
any_inbound = st.one_of(
    st.builds(Inbound, event=any_event, received_us=times),
    st.builds(Inbound, batch=st.builds(EventBatch, events=st.lists(any_event, max_size=4)), received_us=times),
    st.builds(Inbound, tick=st.builds(Tick, time_us=times), received_us=times),
    st.builds(Inbound, forget=st.builds(Forget, user_id=texts, before_us=times), received_us=times),
)


@settings(max_examples=100)
@given(st.lists(any_inbound, max_size=8))
def test_well_formed_nonsense_leaves_one_trace_each(inbounds: list[Inbound]) -> None:
    _once_each([record.SerializeToString() for record in inbounds])
