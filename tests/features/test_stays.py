"""A visit stays with what it clicked on in a search until it goes on to something else, and that is told."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import BY_QUERY, DWELL, FORGET, Message, decode
from services.common.snapshots import pack, unpack
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from tests.features.makers import (
    MINUTE,
    SECOND,
    START,
    Row,
    event,
    feature,
    impression,
    message,
    stayed,
    tick,
    values_of,
    view_of,
)

VIEW, CLICK, CART, PURCHASE, SEARCH = 1, 2, 3, 4, 6
COMPARED = ("query", "item", "category", "play_seconds", "user", "time_us")


def row(at_us: int, kind: int, item: str | None = None, query: str | None = "red", session: str | None = "s1") -> Row:
    category = f"c-{item}" if item else None
    return event(START + at_us, kind, session=session, query=query, item=item, category=category, price=9.0)


def shown(at_us: int, query: str | None) -> Row:
    return impression(START + at_us, ["i1", "i2"], ["c1", None], session="s1", query=query)


def told(fold: UserFold, *batches: list[Row], first: int = 0) -> list[dict[str, Any]]:
    """Rows about stays, as they go to the query's partition."""
    out = []
    for place, batch in enumerate(batches):
        for value in fold.apply([message(first + place, batch)]).items.get(0, []) if batch else ():
            out += [each for each in decode(value).to_pylist() if each["kind"] == DWELL]
    return out


CASES = [
    pytest.param([row(0, CLICK, "i1"), row(MINUTE, CLICK, "i2")], [60.0], id="another click"),
    pytest.param([row(0, CLICK, "i1"), row(MINUTE, SEARCH)], [60.0], id="a search"),
    pytest.param([row(0, CLICK, "i1"), shown(MINUTE, "red")], [60.0], id="back to the answer"),
    pytest.param([row(0, CLICK, "i1"), shown(MINUTE, None), row(2 * MINUTE, SEARCH)], [120.0], id="shown beside it"),
    pytest.param([row(0, CLICK, "i1"), row(MINUTE, VIEW, "i2", None)], [60.0], id="another item, from anywhere"),
    pytest.param([row(0, CLICK, "i1"), row(9, CART, "i1"), row(MINUTE, SEARCH)], [60.0], id="into the cart"),
    pytest.param([row(0, CLICK, "i1"), row(9, CLICK, "i1"), row(MINUTE, SEARCH)], [60.0], id="clicked on twice"),
    pytest.param(
        [row(0, CLICK, "i1"), row(9 * SECOND, CLICK, "i2"), row(MINUTE, SEARCH)], [9.0, 51.0], id="one by one"
    ),
    pytest.param([row(0, CLICK, "i1"), row(11 * MINUTE, SEARCH)], [], id="gone"),
    pytest.param([row(0, CLICK, "i1"), tick(START + 11 * MINUTE), row(MINUTE, SEARCH)], [], id="gone by the clock"),
    pytest.param([row(MINUTE, CLICK, "i1"), shown(0, "red"), row(2 * MINUTE, SEARCH)], [60.0], id="what came before"),
    pytest.param([row(0, CLICK, "i1", None), row(MINUTE, SEARCH)], [], id="found elsewhere"),
    pytest.param([row(0, VIEW, "i1"), row(MINUTE, SEARCH)], [], id="no click"),
    pytest.param([row(0, CLICK, "i1"), row(MINUTE, SEARCH, session="s2")], [], id="another visit"),
    pytest.param([row(0, CLICK, "i1", session=None), row(MINUTE, SEARCH, session=None)], [], id="no visit"),
    pytest.param([row(0, CLICK, "i1", "x" * 81), row(MINUTE, SEARCH)], [], id="a conversation"),
]


@pytest.mark.parametrize(("rows", "seconds"), CASES)
def test_how_long_a_visit_stays(rows: list[Row], seconds: list[float]) -> None:
    found = told(UserFold([], 0, 1), rows)
    assert [one["play_seconds"] for one in found] == seconds
    alone = told(UserFold([], 0, 1), *[[one] for one in rows])
    assert [[one[name] for name in COMPARED] for one in alone] == [[one[name] for name in COMPARED] for one in found]
    for one in found:
        assert one["src_index"] & BY_QUERY
        assert (one["query"], one["category"], one["user"]) == ("red", f"c-{one['item']}", "u1")
        assert one["price"] is None


_ago = st.integers(0, 400)
_acts = st.builds(
    lambda ago, kind, user, item, query: event(
        ago, kind, user, item=item, category=None, query=query, session=f"s-{user}"
    ),
    _ago, st.sampled_from([VIEW, CLICK, CLICK, CLICK, CART, SEARCH]), st.sampled_from(["u1", "u1", "u2"]),
    st.sampled_from(["i1", "i2", "i3", None]), st.sampled_from(["red", "red", "blue", None]),
)  # fmt: skip
_answers = st.builds(
    lambda ago, query: impression(ago, ["i1"], [None], "u1", query=query, session="s-u1"),
    _ago, st.sampled_from([None, "red"]),
)  # fmt: skip
_forgets = st.builds(lambda ago: {"kind": FORGET, "time_us": ago, "user": "u1", "received_us": 0}, _ago)
_near = st.lists(_acts | _acts | _acts | _answers | _forgets, min_size=8, max_size=20).map(
    lambda rows: [{**one, "time_us": START + (100 * n + one["time_us"]) * SECOND} for n, one in enumerate(rows)]
)
"""Rows nearly in the order of time, as a log is."""


@given(log=st.lists(_near, min_size=1, max_size=3), cut=st.integers(0, 3))
@settings(max_examples=100)
def test_it_is_a_function_of_the_log_alone(log: list[list[Row]], cut: int) -> None:
    """However many rows come at once, and through a restart."""
    fold = UserFold([], 0, 1)
    found = told(fold, *log[:cut])
    again = UserFold([], 0, 1)
    if fold.next_offset:
        again.restore(unpack(pack(fold.snapshot())))
    found += told(again, *log[cut:], first=cut)
    want = [{**one, "play_seconds": one["dwell_seconds"]} for one in stayed([one for batch in log for one in batch])]
    assert [[one[name] for name in COMPARED] for one in found] == [[one.get(name) for name in COMPARED] for one in want]


def test_seconds_of_stays_are_not_those_of_plays() -> None:
    played = feature("mean", "play_seconds", view="v", name="played", join_keys=("query",))
    stays = feature("mean", "dwell_seconds", view="v", name="stayed", join_keys=("query",))
    kept = feature("ratio", view="v", name="kept", join_keys=("query",), numerator="dwell_seconds >= 30",
                   denominator="kind == 'click'")  # fmt: skip
    sender, fold = UserFold([], 0, 1), ItemFold([view_of(played, stays, kept)])
    play = {**row(3 * MINUTE, 10, "i2"), "play_seconds": 7.0}
    log = [row(0, CLICK, "i1"), row(MINUTE, CLICK, "i2"), play, row(64 * SECOND, VIEW, "i3")]
    log = sorted(log, key=lambda one: one["time_us"])
    (value,) = sender.apply([message(0, log)]).items[0]
    (view,) = fold.apply([Message(0, value)]).views
    found = {name: values_of(view, name)["red",] for name in ("played", "stayed", "kept")}
    assert found == {"played": 7.0, "stayed": 32.0, "kept": 0.5}


def test_what_many_shoppers_of_one_message_do_is_kept_apart() -> None:
    log = [event(START + n, CLICK, f"u{n}", session=f"s{n}", query="red", item="i1") for n in range(50)]
    log += [event(START + MINUTE + n, SEARCH, f"u{n}", session=f"s{n}", query="blue") for n in range(50)]
    found = told(UserFold([], 0, 1), log)
    assert [(one["user"], one["play_seconds"]) for one in found] == [(f"u{n}", 60.0) for n in range(50)]
