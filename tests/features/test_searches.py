"""A search is given up when the same visit soon searches for something else and has done nothing with what it found."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import BY_QUERY, FORGET, REFORMULATION, Message, decode
from services.common.snapshots import pack, unpack
from services.features.by_user import UserFold
from tests.features.makers import MINUTE, SECOND, START, Row, event, given_up, impression, message, tick
from tests.features.test_functions import logs

SEARCH, CLICK, VIEW = 6, 2, 1


def search(query: str, at_us: int, session: str = "s1", user: str = "u1") -> Row:
    return event(at_us, SEARCH, user, session=session, query=query)


def click(query: str, at_us: int) -> Row:
    return event(at_us, CLICK, session="s1", query=query, item="i1")


def answer(query: str, at_us: int) -> Row:
    return impression(at_us, ["i1", "i2"], ["c1", None], session="s1", query=query)


def sent(fold: UserFold, *batches: list[Row], first: int = 0) -> list[dict[str, Any]]:
    """Rows about queries that were given up, as they go to the query's partition."""
    out = []
    for place, batch in enumerate(batches):
        for value in fold.apply([message(first + place, batch)]).items.get(0, []):
            out += [row for row in decode(value).to_pylist() if row["kind"] == REFORMULATION]
    return out


CASES = [
    pytest.param([search("a", 0), search("b", MINUTE)], ["a"], id="other words"),
    pytest.param([search("a", 0), answer("a", SECOND), answer("b", MINUTE)], ["a"], id="by answers alone"),
    pytest.param([search("a", 0), search("b", MINUTE), search("c", 2 * MINUTE)], ["a", "b"], id="and others again"),
    pytest.param([search("a", 0), answer("a", SECOND), search("a", MINUTE)], [], id="the same words"),
    pytest.param([search("a", 0), click("a", SECOND), search("b", MINUTE)], [], id="what was found was used"),
    pytest.param([search("a", 0), click("x", SECOND), search("b", MINUTE)], ["a"], id="something else was used"),
    pytest.param([search("a", 0), search("b", 6 * MINUTE)], [], id="too late"),
    pytest.param([search("a", 0), tick(START + 6 * MINUTE), search("b", MINUTE)], [], id="too late on the log's clock"),
    pytest.param([search("a", 0), search("b", MINUTE, "s2")], [], id="another visit"),
    pytest.param([search("a", 0), search("b", MINUTE, "")], [], id="no visit"),
    pytest.param([search("a" * 81, 0), search("b", MINUTE)], [], id="a conversation"),
]


def timed(rows: list[Row]) -> list[Row]:
    return [{**row, "time_us": row["time_us"] % START + START, "session": row.get("session") or None} for row in rows]


@pytest.mark.parametrize(("rows", "found"), CASES)
def test_what_is_given_up(rows: list[Row], found: list[str]) -> None:
    whole = sent(UserFold([], 0, 1), timed(rows))
    assert [row["query"] for row in whole] == found
    assert [row["query"] for row in sent(UserFold([], 0, 1), *[[row] for row in timed(rows)])] == found
    assert all(row["src_index"] & BY_QUERY and row["item"] is None and row["user"] == "u1" for row in whole)


@given(log=logs, cut=st.integers(0, 6))
@settings(max_examples=40)
def test_it_is_a_function_of_the_log_alone(log: list[list[Row]], cut: int) -> None:
    """However many rows come at once, and through a restart."""
    fold = UserFold([], 0, 1)
    found = sent(fold, *log[:cut])
    again = UserFold([], 0, 1)
    if fold.next_offset:
        again.restore(unpack(pack(fold.snapshot())))
    found += sent(again, *log[cut:], first=cut)
    want = [row for row in given_up([row for batch in log for row in batch]) if len(row["query"]) <= 80]
    assert [(row["query"], row["time_us"]) for row in found] == [(row["query"], row["time_us"]) for row in want]


def test_rows_of_one_search_are_numbered_in_the_order_of_the_log() -> None:
    rows = timed([answer("a", 0), answer("b", SECOND), answer("c", 2 * SECOND)])
    (value,) = UserFold([], 0, 1).apply([message(0, rows)]).items[0]
    positions = [(row["src_offset"], row["src_index"]) for row in decode(value).to_pylist()]
    assert positions == sorted(set(positions))
    assert len(positions) == 2 * 6 + 2


def test_a_forgotten_shoppers_search_is_not_given_up_any_more() -> None:
    gone = {"kind": FORGET, "time_us": START + SECOND, "user": "u1", "received_us": 0}
    assert sent(UserFold([], 0, 1), [*timed([search("a", 0)]), gone, *timed([search("b", MINUTE)])]) == []


def test_a_message_that_is_none_changes_nothing() -> None:
    fold = UserFold([], 0, 1)
    fold.apply([Message(0, b"nonsense")])
    assert sent(fold, timed([search("a", 0), search("b", MINUTE)]), first=1)[0]["query"] == "a"
