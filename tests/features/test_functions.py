"""Every function and every type of value equals a plain computation over all rows, whatever the order of arrival."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.definitions import FUNCTIONS, FeatureDefinition
from services.common.records import Message
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.fold import Outputs
from tests.features.makers import (
    HOUR,
    MINUTE,
    START,
    Row,
    event,
    expected,
    exploded,
    feature,
    given_up,
    impression,
    keyed,
    message,
    same,
    stayed,
    tick,
    values_of,
    view_of,
)  # fmt: skip

_real = st.floats(0, 1000, width=32, allow_subnormal=False)
_items, _categories = st.sampled_from(["i1", "i2", "i3"]), st.sampled_from(["c1", "c2", None])

_queries = st.sampled_from([None, "red", "blue", "x" * 81])


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """An event or an impression within three hours."""
    time_us = START + draw(st.integers(0, 3 * HOUR))
    user, session = draw(st.sampled_from(["u1", "u2"])), draw(st.sampled_from(["s1", None, ""]))
    if draw(st.integers(0, 4)) == 0:
        shown = draw(st.lists(st.tuples(_items, _categories), max_size=3))
        asked = {"session": session or None, "query": draw(_queries)}
        return impression(time_us, [i for i, _ in shown], [c for _, c in shown], user, **asked)
    if draw(st.integers(0, 4)) == 0:
        return event(time_us, 6, user, session=session or None, query=draw(_queries))
    numbers = {name: draw(st.none() | _real) for name in ("value", "price", "rating", "play_seconds")}
    texts = {"item": draw(_items), "category": draw(_categories), "query": draw(_queries)}
    return event(time_us, draw(st.sampled_from([1, 2, 4])), user, session=session or None, **numbers, **texts)


logs = st.lists(st.lists(rows(), max_size=6), min_size=1, max_size=6)
"""Batches of rows in the order they arrive, times in any order."""

CLICKS = "kind == 'click'"
LIST = {"n": "3"}
CASES = [
    *[feature("count", value_type=t, where=CLICKS) for t in ("INT64", "INT32", "FLOAT32", "FLOAT64", "BOOL")],
    *[feature("count_distinct", "item", value_type=t) for t in ("INT64", "INT32", "FLOAT32", "FLOAT64", "BOOL")],
    feature("count_distinct", "price", "INT64"),
    *[feature(f, "price", t) for f in ("sum", "mean", "min", "max", "std") for t in ("FLOAT32", "FLOAT64")],
    *[feature(f, "time_us", t) for f in ("min", "max") for t in ("INT64", "UNIX_TIMESTAMP")],
    *[feature("last", "category", t) for t in ("STRING", "BYTES")],
    *[feature("last", "price", t) for t in ("FLOAT32", "FLOAT64")],
    *[feature("last", "kind", t) for t in ("INT64", "INT32")],
    *[feature("last", "time_us", t) for t in ("INT64", "UNIX_TIMESTAMP")],
    *[feature("last_n", "item", t, **LIST) for t in ("STRING_LIST", "BYTES_LIST")],
    *[feature("last_n", "price", t, **LIST) for t in ("FLOAT32_LIST", "FLOAT64_LIST")],
    *[feature("last_n", "kind", t, **LIST) for t in ("INT64_LIST", "INT32_LIST")],
    *[feature("last_n", "time_us", t, **LIST) for t in ("INT64_LIST", "UNIX_TIMESTAMP_LIST")],
    *[feature("top_k", "item", t, n="2") for t in ("STRING_LIST", "BYTES_LIST")],
    *[feature("top_k", "kind", t, n="2") for t in ("INT64_LIST", "INT32_LIST")],
    feature("ratio", value_type="FLOAT32", numerator=CLICKS, denominator="kind == 'impression'"),
    feature("ratio", numerator=CLICKS, denominator="kind != 'click'", prior="0.1", prior_weight="5"),
    *[feature("decay", value_type=t, half_life="20m", where="kind == 'view'") for t in ("FLOAT32", "FLOAT64")],
    feature("sum", "value", where="kind in ('click', 'purchase') and (price > 10 or query is null)"),
    feature("mean", "rating", where="not (category == 'c1')"),
    feature("sum", "examined", where="kind == 'impression'"),
    feature("count", "item", "INT64", view="by_session", join_keys=("session_id",)),
    feature("mean", "price", view="by_category", join_keys=("user_id", "category")),
    feature("last_n", "query", "STRING_LIST", n="2", where="query is not null", slide_us=HOUR, window_us=2 * HOUR),
]  # fmt: skip


def name_of(definition: FeatureDefinition) -> str:
    """Name of a case."""
    return f"{definition.function}-{definition.column}-{definition.value_type}-{definition.view}"


def check(definition: FeatureDefinition, outputs: list[tuple[list[Row], Outputs]]) -> dict[Any, Any]:
    """Every published value equals the computation over what had arrived, at the clock it carries."""
    published: dict[Any, Any] = {}
    for seen, out in outputs:
        by_key = keyed(exploded(seen), definition.join_keys)
        for view in out.views:
            for key, got in values_of(view, definition.name).items():
                want = expected(definition, by_key.get(key, []), view.clock_us)
                assert same(want, got), (key, want, got)
                published[key] = got
    return published


@pytest.mark.parametrize("definition", CASES, ids=name_of)
@given(log=logs, later=st.integers(0, 2 * HOUR))
@settings(max_examples=6)
def test_a_user_feature_equals_a_batch_computation(
    definition: FeatureDefinition, log: list[list[Row]], later: int
) -> None:
    fold = UserFold([view_of(definition)], 0, 1)
    seen: list[Row] = []
    outputs = []
    for offset, batch in enumerate([*log, [tick(START + 3 * HOUR + later)]]):
        seen = [*seen, *batch]
        if batch:
            outputs.append((seen, fold.apply([message(offset, batch)])))
    published = check(definition, outputs)
    for key, mine in keyed(exploded(seen), definition.join_keys).items():
        want = expected(definition, mine, fold.clock_us)
        if key in published or want not in (None, 0, 0.0, False, []):
            assert same(want, published.get(key)) or definition.function == "ratio" and key not in published


ITEM_CASES = [
    feature("count", value_type="INT64", view="items", join_keys=("item_id",), where="kind == 'impression'"),
    feature("count_distinct", "user", "INT64", view="items", join_keys=("item_id",)),
    feature("std", "price", view="items", join_keys=("item_id",)),
    feature("ratio", view="items", join_keys=("item_id",), numerator=CLICKS, denominator="kind == 'impression'"),
    feature("decay", view="items", join_keys=("item_id",), half_life="10m"),
]

QUERY_CASES = [
    feature("count", value_type="INT64", view="queries", join_keys=("query",), where="kind == 'search'"),
    feature("count_distinct", "user", "INT64", view="queries", join_keys=("query",)),
    feature("ratio", view="queries", join_keys=("query",), numerator=CLICKS, denominator="kind == 'impression'"),
    feature("count", value_type="INT64", view="given_up", join_keys=("query",), where="kind == 'reformulation'"),
    feature("count", value_type="INT64", view="stays", join_keys=("query", "item_id"), where="kind == 'dwell'"),
    feature("mean", "dwell_seconds", view="stays", join_keys=("query",)),
    feature("mean", "play_seconds", view="stays", join_keys=("query",)),
    feature("sum", "examined", view="of_items", join_keys=("query", "item_id")),
    feature("mean", "price", view="of_items", join_keys=("query", "item_id")),
    feature("decay", view="of_items", join_keys=("query", "item_id"), half_life="10m"),
    feature("last", "item", "STRING", view="of_categories", join_keys=("category", "query")),
]


@pytest.mark.parametrize("definition", [*ITEM_CASES, *QUERY_CASES], ids=name_of)
@given(log=logs, swap=st.booleans(), repeat=st.booleans())
@settings(max_examples=6)
def test_an_item_feature_counts_what_all_partitions_sent_once(
    definition: FeatureDefinition, log: list[list[Row]], swap: bool, repeat: bool
) -> None:
    """`swap`: the partitions' messages arrive the other way round; `repeat`: a restarted sender sends all again."""
    senders = [UserFold([], partition, 1) for partition in range(2)]
    sent: list[list[bytes]] = [[], []]
    for place, batch in enumerate(log):
        if batch:
            out = senders[place % 2].apply([message(place, batch)])
            sent[place % 2] += out.items.get(0, [])
    order = [*sent[1], *sent[0]] if swap else [*sent[0], *sent[1]]
    fold = ItemFold([view_of(definition)])
    latest: dict[Any, Any] = {}
    for offset, value in enumerate(order * (1 + repeat)):
        for view in fold.apply([Message(offset, value)]).views:
            latest |= values_of(view, definition.name)
    rows_sent = exploded([row for batch in log for row in batch])
    if "query" in definition.join_keys:
        for sender in range(2):
            mine = [row for batch in log[sender::2] for row in batch]
            rows_sent += [*given_up(mine), *stayed(mine)]
        rows_sent = [row for row in rows_sent if len(row["query"] or "") <= 80]
    for key, rows_of in keyed(rows_sent, definition.join_keys).items():
        want = expected(definition, rows_of, fold.clock_us)
        if key in latest:
            assert same(want, latest[key]), (key, want, latest[key])
        else:
            assert want in (None, 0, 0.0)


def test_every_function_is_covered() -> None:
    assert {definition.function for definition in CASES} == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("function", "tags", "value_type"),
    [
        ("count", {}, "INT64"),
        ("decay", {"half_life": "10m"}, "FLOAT64"),
        ("top_k", {"n": "3"}, "STRING_LIST"),
        ("count_distinct", {}, "INT64"),
    ],
)
def test_features_of_one_slide_keep_their_own_windows(function: str, tags: dict[str, str], value_type: str) -> None:
    long = feature(function, "item", value_type, 4 * MINUTE, MINUTE, name="long", **tags)
    short = feature(function, "item", value_type, 2 * MINUTE, MINUTE, name="short", **tags)
    fold = UserFold([view_of(long, short)], 0, 1)
    seen = [event(START + n * MINUTE, item=f"i{n}") for n in range(3)]
    fold.apply([message(0, seen)])
    for step in range(3, 8):
        clock_us = START + step * MINUTE
        for view in fold.apply([message(step, [tick(clock_us)])]).views:
            for definition in (long, short):
                assert same(expected(definition, seen, clock_us), values_of(view, definition.name)["u1",])
    assert len(fold.views["stats"].keys) == 0
