"""A restart at any place gives the rows of a run that never stopped."""

import json
import random
from collections import Counter

import pytest
from freshrank.v1.events_pb2 import EventBatch, EventKind, Forget, Inbound
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import Message
from services.common.snapshots import pack, unpack
from services.common.stage import Snapshot
from services.ingest.bots import BotRules
from services.ingest.clean import Rules
from tests.ingest.makers import HOUR, SECOND, T0, event, fold, impression, inbound, letters, message, rows

RULES = Rules(bots=BotRules(per_minute=6, dwell_run=3, shoppers=5), duplicates=128, clip_every=10)


def log_of(seed: int, count: int = 60) -> list[Message]:
    """A log with outliers, bots, duplicates, late and bad events, batches, strangers and forgets."""
    noise = random.Random(seed)
    out: list[Inbound] = []
    now = T0
    for n in range(count):
        now += noise.choice([1_000, 1_000, 1_000, 50_000, 50_000, SECOND, 20 * SECOND, HOUR // 20])
        made = [
            event(
                noise.randrange(n + 1),
                user_id=f"user-{noise.choice([0, 0, 0, *range(9)])}",
                event_time_us=now - noise.choice([0, 0, 0, SECOND, 2 * HOUR]),
                kind=noise.choice([EventKind.EVENT_KIND_VIEW] * 6 + [EventKind.EVENT_KIND_PURCHASE, 0]),
                value=noise.choice([5.0, 7.0, 9.0] * 5 + [1e7]),
            )
            for _ in range(noise.choice([1, 1, 1, 4]))
        ]
        kind = noise.randrange(10)
        if kind == 0:
            out.append(inbound(impression(n, time_us=now, user_id="user-3"), now))
        elif kind == 1:
            out.append(Inbound(forget=Forget(user_id="user-2"), received_us=now))
        elif len(made) > 1:
            out.append(Inbound(batch=EventBatch(events=made), received_us=now))
        else:
            out.append(inbound(made[0], now))
    return [message(offset, record) for offset, record in enumerate(out)]


def stored(snapshot: Snapshot) -> Snapshot:
    """Through the bytes of a file and back."""
    return unpack(pack(snapshot))


@pytest.mark.parametrize("partitions", [1, 2])
def test_from_a_snapshot_at_every_place_the_rest_is_the_same(partitions: int) -> None:
    log = log_of(1, 120)
    whole = fold(RULES, partitions=partitions)
    expected, snapshots = [], [whole.snapshot()]
    for record in log:
        expected.append(whole.apply([record]))
        snapshots.append(whole.snapshot())
    steps = sum((out.steps for out in expected), Counter())
    cases = {"schema", "duplicates", "late", "outliers"} | ({"bots"} if partitions == 1 else set())
    assert set(steps) >= cases, "the log has to hold every case"
    assert partitions == 1 or any(out.forwards for out in expected)
    for place, snapshot in enumerate(snapshots):
        resumed = fold(RULES, partitions=partitions, snapshot=stored(snapshot))
        assert resumed.next_offset == place
        rest = resumed.apply(log)
        assert rows(rest) == rows(*expected[place:])
        assert letters(rest) == letters(*expected[place:])
        assert rest.forwards == [forward for out in expected[place:] for forward in out.forwards]
        assert json.dumps(resumed.snapshot().meta) == json.dumps(whole.snapshot().meta)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 90), max_size=6))
def test_batches_and_restarts_at_any_places_change_nothing(seed: int, cuts: list[int]) -> None:
    log = log_of(seed, 90)
    at_once = fold(RULES).apply(log)
    on, outs = fold(RULES), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(log)], strict=True):
        outs.append(on.apply(log[max(0, start - 3) : end]))
        on = fold(RULES, snapshot=stored(on.snapshot()))
    assert rows(*outs) == rows(at_once)
    assert letters(*outs) == letters(at_once)


def test_a_snapshot_does_not_change_with_the_fold() -> None:
    on = fold(RULES)
    log = log_of(3)
    on.apply(log[:30])
    snapshot = on.snapshot()
    before = pack(snapshot)
    on.apply(log)
    assert pack(snapshot) == before


def test_rows_come_with_strictly_growing_places() -> None:
    places = [(r["src_offset"], r["src_index"]) for r in rows(fold(RULES).apply(log_of(4, 300)))]
    assert places == sorted(set(places))


def test_a_snapshot_names_no_shopper() -> None:
    on = fold(RULES)
    on.apply([message(0, inbound(event(user_id="a-very-private-name")))])
    assert b"a-very-private-name" not in pack(on.snapshot())
