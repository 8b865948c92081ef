"""Outliers, bots and duplicates: decided once, in log order, with state that is bounded."""

import math

import pytest
from freshrank.v1.events_pb2 import EventKind

from services.common.records import BOT, CLIPPED
from services.ingest.bots import BotRules, Bots
from services.ingest.clean import Rules
from services.ingest.clip import Clipper
from services.ingest.duplicates import Seen
from tests.ingest.makers import HOUR, SECOND, T0, event, fold, impression, inbound, rows, run

VIEW, BUY = EventKind.EVENT_KIND_VIEW, EventKind.EVENT_KIND_PURCHASE


def test_an_outlier_is_cut_to_the_bound_and_keeps_the_version_of_the_bound() -> None:
    on = fold(Rules(clip_every=100))
    run([inbound(event(n, value=10.0 + n % 5, user_id=f"u{n}")) for n in range(100)], on)
    out = run([inbound(event(200, value=1e8)), inbound(event(201, value=12.0)), inbound(event(202))], on)
    wild, tame, empty = rows(out)
    assert 14.0 < wild["value"] < 1000.0
    assert (wild["verdict"], wild["clip_version"], wild["event_id"]) == (CLIPPED, 1, "event-200")
    assert (tame["value"], tame["verdict"], tame["clip_version"]) == (12.0, 0, 1)
    assert empty["value"] is None
    assert out.steps["outliers"] == 1


def test_before_enough_is_seen_nothing_is_cut() -> None:
    assert Clipper(every=10).clip("value", 1e9) == 1e9


def test_a_tenth_of_forged_values_does_not_move_the_bound_far() -> None:
    honest, forged = Clipper(every=1000), Clipper(every=1000)
    for n in range(1000):
        honest.clip("value", 10.0 + n % 7)
        forged.clip("value", 1e9 if n % 10 == 0 else 10.0 + n % 7)
    assert forged.bounds["value"] < 2 * honest.bounds["value"]


def test_bounds_follow_a_shop_that_grows() -> None:
    clipper = Clipper(every=1000)
    for _ in range(70_000):
        clipper.clip("quantity", 1.0)
    for _ in range(200_000):
        clipper.clip("quantity", 100.0)
    assert clipper.clip("quantity", 100.0) == 100.0


def test_zeros_do_not_pull_the_bound_down() -> None:
    clipper = Clipper(every=100)
    for n in range(1000):
        clipper.clip("play_seconds", 0.0 if n % 10 else 60.0)
    assert clipper.clip("play_seconds", 60.0) == 60.0


def test_the_bound_is_a_float_that_a_column_holds_exactly() -> None:
    clipper = Clipper(every=10)
    for _ in range(10):
        clipper.clip("value", 3.3)
    bound = clipper.bounds["value"]
    assert math.isfinite(bound)
    assert clipper.clip("value", bound) == bound


def test_a_shopper_faster_than_people_is_a_bot_until_it_rests() -> None:
    rules = BotRules(per_minute=10, hold_us=600 * SECOND)
    bots = Bots(rules)
    start = T0 - T0 % (60 * SECOND)
    verdicts = [bots.judge("u", VIEW, start + n * SECOND, start + n * SECOND) for n in range(12)]
    assert verdicts == [False] * 10 + [True] * 2
    assert bots.is_bot("u", start + 600 * SECOND)
    assert not bots.is_bot("u", start + 700 * SECOND)
    assert not bots.is_bot("somebody else", start)


def test_looks_too_short_to_be_looks_make_a_bot() -> None:
    bots = Bots(BotRules(dwell_run=5))
    verdicts = [bots.judge("u", VIEW, T0 + n * 50_000, T0 + n * 50_000) for n in range(8)]
    assert verdicts == [False] * 5 + [True] * 3


def test_a_slow_look_between_quick_ones_starts_the_count_again() -> None:
    bots = Bots(BotRules(dwell_run=5))
    times = [T0 + n * 50_000 + (n // 4) * 10 * SECOND for n in range(40)]
    assert not any(bots.judge("u", VIEW, time, time) for time in times)


def test_an_order_of_many_lines_is_no_bot() -> None:
    bots = Bots(BotRules())
    assert not any(bots.judge("u", BUY, T0, T0) for _ in range(1000))


def test_watched_shoppers_are_bounded_and_the_longest_unseen_go() -> None:
    bots = Bots(BotRules(shoppers=100))
    for n in range(1000):
        bots.judge(f"u{n}", VIEW, T0 + n, T0 + n)
    assert len(bots) <= 100


def test_shoppers_who_left_are_dropped_within_the_hold() -> None:
    bots = Bots(BotRules())
    for n in range(50):
        bots.judge(f"u{n}", VIEW, T0, T0)
    bots.judge("late", VIEW, T0 + HOUR, T0 + HOUR)
    assert len(bots) == 1


def test_the_verdict_is_on_rows_and_on_the_impressions_of_a_bot() -> None:
    on = fold(Rules(bots=BotRules(dwell_run=3)))
    run([inbound(event(n, event_time_us=T0 + n)) for n in range(5)], on)
    event_row, shown = rows(run([inbound(event(9)), inbound(impression(10))], on))
    assert event_row["verdict"] & BOT
    assert shown["verdict"] & BOT


def test_a_forgotten_shopper_leaves_no_verdict() -> None:
    bots = Bots(BotRules(per_minute=0))
    assert bots.judge("u", VIEW, T0, T0)
    bots.forget("u")
    assert len(bots) == 0
    assert not bots.is_bot("u", T0)


@pytest.mark.parametrize("hours", [0.5, 0.99])
def test_a_duplicate_that_is_not_late_is_always_known(hours: float) -> None:
    seen = Seen(window_us=HOUR, cap=10_000)
    seen.add(1, T0)
    for n in range(200):
        seen.add(100 + n, T0 + int(hours * HOUR * n / 199))
    assert 1 in seen


def test_ids_are_forgotten_after_the_window() -> None:
    seen = Seen(window_us=HOUR, cap=10_000)
    for n in range(1000):
        seen.add(n, T0 + n * 60 * SECOND)
    assert len(seen) < 70
    assert 999 in seen
    assert seen.evicted == 0


def test_too_many_ids_push_out_the_oldest_and_are_counted() -> None:
    seen = Seen(window_us=HOUR, cap=640)
    for n in range(1000):
        seen.add(n, T0)
    assert len(seen) <= 650
    assert 999 in seen
    assert 0 not in seen
    assert seen.evicted == 1000 - len(seen)
