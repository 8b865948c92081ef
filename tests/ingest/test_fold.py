"""What ingest makes of records: rows, in log order, once."""

import math

import pytest
from freshrank.v1.events_pb2 import Context, EventBatch, EventKind, Forget, Impression, Inbound, Tick

from services.common import records
from services.common.records import Message
from services.common.tokens import Tokens
from tests.ingest.makers import HOUR, SECOND, T0, event, fold, impression, inbound, letters, message, rows, run


def test_an_event_becomes_a_row_with_what_the_catalogue_knows() -> None:
    sent = event(value=30.0, context=Context(region="DE", device="phone", platform="web"), attribution_token="t")
    (row,) = rows(run([inbound(sent)]))
    assert (row["kind"], row["user"], row["item"], row["time_us"]) == (
        EventKind.EVENT_KIND_VIEW,
        "user-1",
        "item-1",
        T0,
    )
    assert (row["category"], row["price"], row["value"]) == ("shoes", 20.0, 30.0)
    assert (row["region"], row["device"], row["platform"], row["token"]) == ("DE", "phone", "web", "t")
    assert (row["src_offset"], row["src_index"], row["verdict"]) == (0, 0, 0)


def test_what_was_not_sent_is_null_and_a_zero_stays_a_zero() -> None:
    (row,) = rows(run([inbound(event(item_id="new-1", session_id="", value=0.0))]))
    missing = ["session", "category", "price", "quantity", "rating", "play_seconds", "play_share", "query", "token"]
    assert {name: row[name] for name in missing} == dict.fromkeys(missing)
    assert row["value"] == 0.0


def test_an_impression_keeps_its_message_and_lists_what_was_shown() -> None:
    shown = impression()
    (row,) = rows(run([inbound(shown)]))
    assert row["kind"] == records.IMPRESSION
    assert row["impression_items"] == ["item-1", "item-2"]
    assert row["impression_categories"] == ["shoes", "hats"]
    assert Impression.FromString(row["impression"]) == shown


def test_a_forget_row_carries_the_time_before_which_everything_goes() -> None:
    out = run(
        [
            Inbound(forget=Forget(user_id="user-1", before_us=T0), received_us=T0 + SECOND),
            Inbound(forget=Forget(user_id="user-1"), received_us=T0 + SECOND),
        ]
    )
    assert [(r["kind"], r["time_us"]) for r in rows(out)] == [(records.FORGET, T0), (records.FORGET, T0 + SECOND)]


def test_a_tick_of_a_replay_moves_the_clock_and_is_a_row_of_the_log() -> None:
    on = fold(log_time=True)
    (row,) = rows(run([Inbound(tick=Tick(time_us=T0))], on))
    assert (row["kind"], row["src_offset"], row["user"]) == (records.TICK, 0, None)
    assert on.clock_us == T0


def test_a_batch_becomes_rows_with_growing_indexes() -> None:
    batch = Inbound(batch=EventBatch(events=[event(0), event(1), event(2)]), received_us=T0 + 9 * SECOND)
    out = run([batch, inbound(event(3), T0 + 9 * SECOND)])
    assert [(r["src_offset"], r["src_index"]) for r in rows(out)] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_without_an_arrival_the_brokers_time_counts() -> None:
    out = fold().apply([message(0, Inbound(event=event(event_time_us=0)), T0 // 1000)])
    assert [(r["time_us"], r["received_us"]) for r in rows(out)] == [(T0, T0)]


def test_in_a_replay_the_brokers_time_never_counts() -> None:
    today = T0 + 1000 * HOUR
    out = fold(log_time=True).apply([message(n, Inbound(event=event(n)), today // 1000) for n in range(2)])
    assert [r["received_us"] for r in rows(out)] == [T0, T0 + SECOND]


def test_a_clock_that_runs_ahead_is_set_to_the_arrival() -> None:
    on = fold()
    (row,) = rows(run([inbound(event(event_time_us=T0 + 300 * SECOND), received_us=T0)], on))
    assert row["time_us"] == T0
    assert on.clock_us == T0


def test_the_same_event_twice_counts_once() -> None:
    out = run([inbound(event(0)), inbound(event(0)), inbound(impression(1)), inbound(impression(1))])
    assert len(rows(out)) == 2
    assert out.outcomes["duplicate"] == 2
    assert not letters(out)


def test_an_event_id_of_another_user_is_another_event() -> None:
    out = run([inbound(event(0)), inbound(event(0, user_id="user-2"))])
    assert len(rows(out)) == 2


def test_ten_replays_of_the_log_leave_one_copy_of_each_row() -> None:
    log = [inbound(event(n), T0 + 60 * SECOND) for n in range(20)]
    on = fold()
    outs = [run(log, on) for _ in range(10)]
    assert len(rows(*outs)) == 20


def test_an_event_within_the_lateness_is_a_row_and_an_older_one_a_dead_letter() -> None:
    late, later = event(1, event_time_us=T0 - HOUR), event(2, event_time_us=T0 - HOUR - 1)
    out = run([inbound(event(0)), inbound(late, T0), inbound(later, T0)])
    assert [r["event_id"] for r in rows(out)] == ["event-0", "event-1"]
    assert [(x.reason, x.field, x.offset) for x in letters(out)] == [("late", "event_time_us", 2)]


def test_a_late_impression_is_refused_like_an_event() -> None:
    out = run([inbound(event(0)), inbound(impression(time_us=T0 - 2 * HOUR), T0)])
    assert [(x.reason, x.field) for x in letters(out)] == [("late", "time_us")]


def test_offsets_already_taken_give_nothing() -> None:
    on = fold()
    run([inbound(event(0)), inbound(event(1))], on)
    assert on.apply([message(0, inbound(event(7)))]).messages == []
    assert on.next_offset == 2


def test_large_steps_are_written_as_several_messages_in_order() -> None:
    query = "x" * 500
    on = fold()
    out = run([inbound(event(n, query=query)) for n in range(4000)], on)
    assert len(out.messages) > 1
    assert max(map(len, out.messages)) < 2_000_000
    assert [r["src_offset"] for r in rows(out)] == list(range(4000))


def test_a_row_larger_than_a_message_travels_alone() -> None:
    batch = records.batch_of(records.INTERACTIONS, {"src_offset": [1, 2], "impression": [b"x" * 900, b"y" * 900]})
    assert [records.decode(value).num_rows for value in records.encode_split(batch, 1000)] == [1, 1]


@pytest.mark.parametrize(
    ("query", "clean"),
    [("  Red\tSHOES ", "red shoes"), ("ＲＥＤ", "red"), ("stra\u200bße", "stra sse"), ("🔥 Schuhe", "🔥 schuhe")],
)
def test_queries_are_folded_to_one_spelling(query: str, clean: str) -> None:
    out = run([inbound(event(kind=EventKind.EVENT_KIND_SEARCH, item_id="", query=query))])
    assert [r["query"] for r in rows(out)] == [clean]
    assert out.steps["text"] == 1


def test_every_step_that_did_something_is_counted() -> None:
    out = run(
        [
            inbound(event(0, context=Context(region=" DE "))),
            inbound(event(0)),
            inbound(event(1, kind=99)),
            inbound(event(2, event_time_us=0), T0),
            inbound(event(3, event_time_us=T0 - 2 * HOUR), T0),
        ]
    )
    assert dict(out.steps) == {"text": 1, "catalogue": 2, "duplicates": 1, "schema": 1, "time": 1, "late": 1}
    assert (out.outcomes["event"], out.outcomes["dead"], out.missing["value"]) == (2, 2, 2)


def test_a_message_without_a_value_is_a_dead_letter() -> None:
    out = fold().apply([Message(0, None)])  # type: ignore[arg-type]
    assert [(x.reason, x.field) for x in letters(out)] == [("malformed", "record")]


def test_nan_scores_and_features_of_impressions_are_kept_as_missing() -> None:
    shown = impression()
    shown.items[0].features[0] = math.nan
    (row,) = rows(run([inbound(shown)]))
    assert math.isnan(Impression.FromString(row["impression"]).items[0].features[0])


TOKENS = Tokens({1: b"k" * 16}, 1)


def test_what_follows_a_search_counts_for_its_query() -> None:
    asked, home = (TOKENS.issue(f"{n:032x}", "user-1", T0, query) for n, query in enumerate(("red shoes", "")))
    records = [
        impression(query="Red  SHOES"),
        impression(1),
        event(1, kind=EventKind.EVENT_KIND_CLICK, attribution_token=asked),
        event(2, kind=EventKind.EVENT_KIND_PURCHASE, attribution_token=asked, query="Boots"),
        event(3, kind=EventKind.EVENT_KIND_CLICK, attribution_token=home),
        event(4, kind=EventKind.EVENT_KIND_CLICK, attribution_token="nonsense"),
        impression(2, query="a conversation " * 20),
    ]
    found = [row["query"] for row in rows(run([inbound(record) for record in records]))]
    assert found == ["red shoes", None, "red shoes", "boots", None, None, None]
