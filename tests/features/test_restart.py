"""A fold restored from a snapshot goes on as if nothing had happened; what was seen is dropped."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.plans import ViewPlan
from services.common.records import FORGET, Message, decode
from services.common.snapshots import SnapshotStore
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.fold import Outputs
from tests.features.makers import (
    HOUR,
    MINUTE,
    START,
    Row,
    event,
    feature,
    impression,
    message,
    messages,
    tick,
    values_of,
    view_of,
)  # fmt: skip
from tests.features.test_functions import CASES, CLICKS, logs


def renamed(number: int, case: Any) -> Any:
    """A case as one of many features of its view."""
    return feature(
        case.function, case.column, case.value_type, case.window_us, case.slide_us, case.view, f"f{number}",
        case.join_keys, **tags_of(case),
    )  # fmt: skip


def tags_of(case: Any) -> dict[str, str]:
    """The tags a definition came from."""
    texts = {name: getattr(case, name) for name in ("where", "numerator", "denominator")}
    numbers = {name: str(getattr(case, name)) for name in ("n", "prior", "prior_weight") if getattr(case, name)}
    life = {"half_life": f"{case.half_life_us // 1_000_000}s"} if case.half_life_us else {}
    return {name: text for name, text in {**texts, **numbers, **life}.items() if text}


@cache
def whole_plan() -> list[ViewPlan]:
    """A case of each function, and the ones of other views."""
    first = {(case.function, case.view): case for case in CASES}
    named = [renamed(number, case) for number, case in enumerate(first.values())]
    return [view_of(*(f for f in named if f.view == view)) for view in ("stats", "by_session", "by_category")]


def plain(out: Outputs) -> dict[Any, Any]:
    """Published values by view, field and key."""
    found = {}
    for view in out.views:
        for field in view.columns:
            for key, value in values_of(view, field).items():
                found[view.view, field, key] = (value, view.position, view.clock_us)
    return found


@given(log=logs, cut=st.integers(0, 6))
@settings(max_examples=8)
def test_a_restored_fold_gives_the_same_values(log: list[list[Row]], cut: int) -> None:
    sent = messages([*log, [tick(START + 4 * HOUR)]])
    whole, first = UserFold(whole_plan(), 0, 4), UserFold(whole_plan(), 0, 4)
    for one in sent[:cut]:
        whole.apply([one])
        first.apply([one])
    second = UserFold([], 0, 4)
    second.restore(first.snapshot())
    for one in sent[cut:]:
        assert repr(plain(second.apply([one]))) == repr(plain(whole.apply([one])))
    assert second.next_offset == whole.next_offset


def test_a_snapshot_survives_the_disk(tmp_path: Path) -> None:
    fold = UserFold(whole_plan(), 0, 1)
    fold.marks["stats"] = [3, "run"]
    fold.apply(messages([[event(START, item="ä", category="c", price=2.5)], [impression(START, ["i"], [None])]]))
    store = SnapshotStore(tmp_path)
    store.save("interactions", 0, fold.snapshot())
    read = store.newest("interactions", 0)
    assert read is not None
    again = UserFold([], 0, 1)
    again.restore(read)
    assert again.marks == {"stats": [3, "run"]}
    later = [tick(START + 2 * HOUR)]
    assert repr(plain(again.apply([message(2, later)]))) == repr(plain(fold.apply([message(2, later)])))


def test_a_snapshot_does_not_change_when_the_fold_goes_on() -> None:
    fold = UserFold(whole_plan(), 0, 1)
    fold.apply(messages([[event(START, item="i", category="c", price=2.5)]]))
    taken = fold.snapshot()
    before = {name: array.copy() for name, array in taken.arrays.items()}
    fold.apply([message(1, [event(START + MINUTE, item="j", category="d", price=9.0), tick(START + 4 * HOUR)])])
    assert all(np.array_equal(before[name], array) for name, array in taken.arrays.items())


COUNT = feature("count", value_type="INT64", where=CLICKS)


def counts(out: Outputs) -> dict[Any, Any]:
    """Values of the only feature."""
    return {key: value for (_, _, key), (value, _, _) in plain(out).items()}


def test_a_row_that_was_applied_before_is_dropped() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    row = event(START, src_offset=7, src_index=3)
    assert counts(fold.apply([message(0, [row])])) == {("u1",): 1}
    again = fold.apply([message(1, [row, event(START, src_offset=7, src_index=4)])])
    assert counts(again) == {("u1",): 2}
    assert again.counts["duplicate"] == 1


@pytest.mark.parametrize(("verdict", "outcome"), [(1, "late"), (2, "bot")])
def test_late_rows_and_bots_are_counted_and_not_aggregated(verdict: int, outcome: str) -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    out = fold.apply([message(0, [event(START, verdict=verdict, item="i")])])
    assert out.counts[outcome] == 1
    assert counts(out) == {}
    assert out.items == {}


def test_a_clipped_row_is_aggregated() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    assert counts(fold.apply([message(0, [event(START, verdict=4)])])) == {("u1",): 1}


def test_a_value_falls_when_time_passes_without_an_event() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    fold.apply([message(0, [event(START)])])
    assert counts(fold.apply([message(1, [tick(START + HOUR - 1)])])) == {}
    assert counts(fold.apply([message(2, [tick(START + HOUR)])])) == {("u1",): 0}
    assert len(fold.views["stats"].keys) == 0


def test_values_that_fall_wait_when_there_are_too_many() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1, due_rows=2)
    fold.apply([message(0, [event(START + n, user=f"u{n}") for n in range(5)])])
    later = [fold.apply([message(1 + n, [tick(START + HOUR + n)])]) for n in range(4)]
    assert [len(counts(out)) for out in later] == [2, 2, 1, 0]


def test_nothing_is_published_below_the_position_that_was() -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    fold.publish_from = 3
    sent = messages([[event(START)], [event(START + 1)], [event(START + 2, user="u2")]])
    assert [len(fold.apply([one]).views) for one in sent[:2]] == [0, 0]
    assert counts(fold.apply([sent[2]])) == {("u1",): 2, ("u2",): 1}


def test_forgetting_drops_a_users_values_and_sessions() -> None:
    by_session = feature("count", value_type="INT64", view="by_session", join_keys=("session_id",))
    distinct = feature("count_distinct", "item", "INT64", name="d")
    listed = feature("last_n", "item", "STRING_LIST", name="l", n="5")
    fold = UserFold([view_of(COUNT, distinct, listed), view_of(by_session)], 0, 1)
    rows = [event(START, user=u, session=f"s-{u}", item="i") for u in ("u1", "u2")]
    fold.apply([message(0, rows)])
    forget = {"kind": FORGET, "time_us": START + MINUTE, "user": "u1", "received_us": 0}
    after = event(START + HOUR // 2, user="u1", session="s-new", item="j")
    found = {path: value for path, (value, _, _) in plain(fold.apply([message(1, [forget, after])])).items()}
    assert found["stats", "f", ("u1",)] == 1
    assert found["stats", "d", ("u1",)] == 1
    assert found["stats", "l", ("u1",)] == ["j"]
    assert found["by_session", "f", ("s-u1",)] == 0
    assert ("stats", "f", ("u2",)) not in found


def test_the_clock_of_an_item_partition_moves_with_the_ticks_of_every_sender() -> None:
    item = feature("count", value_type="INT64", view="items", join_keys=("item_id",))
    sender, fold = UserFold([], 0, 2), ItemFold([view_of(item)])
    out = sender.apply([message(0, [event(START, item="i"), tick(START + HOUR), tick(START + 2 * HOUR)])])
    assert sorted(out.items) == [0, 1]
    for offset, value in enumerate(out.items[0]):
        fold.apply([Message(offset, value)])
    assert fold.clock_us == START + 2 * HOUR


def test_derived_rows_do_not_depend_on_how_messages_were_taken_together() -> None:
    item = feature("count", value_type="INT64", view="items", join_keys=("item_id",))
    sent = messages(
        [[impression(START, ["i", "j"], [None, "c"]), event(START + 1, item="i")], [event(START, item="j")]]
    )
    results = []
    for parts in ([sent], [[one] for one in sent]):
        sender, fold = UserFold([], 0, 1), ItemFold([view_of(item)])
        values = [value for part in parts for value in sender.apply(part).items.get(0, [])]
        shown: dict[Any, Any] = {}
        for offset, value in enumerate(values * 2):
            shown |= counts(fold.apply([Message(offset, value)]))
        results.append((shown, fold.snapshot().meta["applied"]))
    assert results[0] == results[1]
    assert results[0][0] == {("i",): 2, ("j",): 2}


@pytest.mark.parametrize("value", [b"", b"\x01\x01garbage", b"\x09\x01"], ids=["empty", "torn", "unknown"])
def test_a_message_that_is_not_columns_changes_nothing_but_the_position(value: bytes) -> None:
    fold = UserFold([view_of(COUNT)], 0, 1)
    out = fold.apply([Message(0, value), message(1, [event(START)])])
    assert [(refused.offset, bool(why)) for refused, why in out.malformed] == [(0, True)]
    assert counts(out) == {("u1",): 1}
    assert fold.apply([Message(2, value)]).views == []
    assert fold.next_offset == 3


def test_a_message_of_the_other_topic_is_refused() -> None:
    fold = ItemFold([])
    assert [why for _, why in fold.apply([message(0, [event(START)])]).malformed] == ["a message of another topic"]


def test_the_positions_of_derived_rows_only_grow() -> None:
    rows = [event(START + n, item=f"i{n % 7}") for n in range(300)]
    shown = impression(START + 300, [f"i{n}" for n in range(40)], [None] * 40)
    out = UserFold([], 3, 2).apply([message(5, [*rows, tick(START), shown]), message(6, [*rows[:1], tick(START + 9)])])
    for values in out.items.values():
        places = [
            (row["src_partition"], row["src_offset"], row["src_index"])
            for value in values
            for row in decode(value).to_pylist()
        ]
        assert places == sorted(set(places))
        assert {partition for partition, _, _ in places} == {3}
        assert places[-1][1:] == (6, 1024)
