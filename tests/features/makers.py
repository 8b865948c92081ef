"""Small logs for tests, and what their features should be, worked out row by row without numpy."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from services.common.definitions import JOIN_COLUMNS, FeatureDefinition, define
from services.common.filters import And, Compare, Filter, In, IsNull, Not, Or, parse
from services.common.plans import ViewPlan
from services.common.records import (
    DWELL,
    FORGET,
    IMPRESSION,
    INTERACTIONS,
    REFORMULATION,
    TICK,
    Message,
    batch_of,
    encode,
)
from services.features.views import ViewRows

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
START = 1_700_000_000_000_000 // HOUR * HOUR
"""Time of the first event of most logs."""

Row = dict[str, Any]
Key = tuple[str, ...]


def feature(
    function: str,
    column: str = "kind",
    value_type: str = "FLOAT64",
    window_us: int = HOUR,
    slide_us: int = MINUTE * 5,
    view: str = "stats",
    name: str = "f",
    join_keys: Sequence[str] = ("user_id",),
    **tags: str,
) -> FeatureDefinition:
    """A definition with defaults."""
    return define(view, join_keys, name, function, column, window_us, slide_us, value_type, tags)


def view_of(*features: FeatureDefinition) -> ViewPlan:
    """A view of features that share view and keys."""
    return ViewPlan(features[0].view, features[0].join_keys, features)


def event(time_us: int, kind: int = 2, user: str = "u1", **columns: Any) -> Row:
    """One event."""
    return {"kind": kind, "time_us": time_us, "user": user, "received_us": time_us, **columns}


def impression(
    time_us: int, items: Sequence[str], categories: Sequence[str | None], user: str = "u1", **columns: Any
) -> Row:
    """One answered request."""
    shown = {"impression_items": list(items), "impression_categories": list(categories)}
    return event(time_us, IMPRESSION, user, **shown, **columns)


def tick(time_us: int) -> Row:
    """The clock moves on."""
    return {"kind": TICK, "time_us": time_us, "received_us": 0, "src_offset": -1}


def message(offset: int, rows: Sequence[Row], first: int | None = None) -> Message:
    """One message of interactions; rows without a source position get one that grows."""
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in INTERACTIONS.names}
    for index, row in enumerate(rows):
        columns["src_offset"][index] = row.get("src_offset", offset if first is None else first)
        columns["src_index"][index] = row.get("src_index", index)
        columns["verdict"][index] = row.get("verdict", 0)
    return Message(offset, encode(batch_of(INTERACTIONS, columns)))


def messages(batches: Sequence[Sequence[Row]], first: int = 0) -> list[Message]:
    """One message per batch."""
    return [message(first + place, rows) for place, rows in enumerate(batches) if rows]


def exploded(rows: Sequence[Row]) -> list[Row]:
    """Rows that are aggregated: one per event and per shown item."""
    out: list[Row] = []
    for row in rows:
        if row["kind"] == IMPRESSION:
            pairs = enumerate(zip(row["impression_items"], row["impression_categories"], strict=True))
            out += [{**row, "item": i, "category": c, "examined": 1 / (1 + place)} for place, (i, c) in pairs]
        elif row["kind"] != TICK:
            out.append(row)
    return out


def given_up(rows: Sequence[Row]) -> list[Row]:
    """Queries of one partition's log that were given up for other words within five minutes of its clock."""
    out: list[Row] = []
    last: dict[str, Row] = {}
    clock_us = 0
    for row in rows:
        clock_us = max(clock_us, row["time_us"])
        if row["kind"] == FORGET:
            last = {s: q for s, q in last.items() if q["user"] != row["user"] or q["time_us"] > row["time_us"]}
        session, query = row.get("session"), row.get("query")
        if not session or not query:
            continue
        before = last.get(session)
        if before is not None and clock_us - before["time_us"] > 5 * MINUTE:
            before = None
        if row["kind"] not in (6, IMPRESSION):
            if before is not None and before["query"] == query:
                before["used"] = True
        elif before is not None and before["query"] == query:
            before["time_us"] = max(before["time_us"], row["time_us"])
        else:
            last[session] = {"user": row["user"], "query": query, "time_us": row["time_us"], "used": False}
            if before is not None and not before["used"]:
                out.append(event(row["time_us"], REFORMULATION, row["user"], session=session, query=before["query"]))
    return out


def stayed(rows: Sequence[Row]) -> list[Row]:
    """Clicks of searches in a partition's log after which the visit went elsewhere within ten minutes of the clock."""
    out: list[Row] = []
    at: dict[str, Row] = {}
    clock_us = 0
    for row in rows:
        clock_us = max(clock_us, row["time_us"])
        if row["kind"] == FORGET:
            at = {s: c for s, c in at.items() if c["user"] != row["user"] or c["time_us"] > row["time_us"]}
        session, query, item = row.get("session"), row.get("query"), row.get("item")
        if row["kind"] in (TICK, FORGET) or not session:
            continue
        click = at.get(session)
        if click is not None and clock_us - click["time_us"] > 10 * MINUTE:
            click = None
        other = bool(item) and item != (click or {}).get("item")
        elsewhere = row["kind"] == 6 or (bool(query) if row["kind"] == IMPRESSION else other)
        if click is not None and row["time_us"] > click["time_us"] and elsewhere:
            seconds = (row["time_us"] - click["time_us"]) / SECOND
            columns = {name: click.get(name) for name in ("query", "item", "category")}
            out.append(event(row["time_us"], DWELL, row["user"], session=session, dwell_seconds=seconds, **columns))
            click = None
        if click is None and row["kind"] == 2 and query and item and len(query) <= 80:
            click = row
        at = {s: c for s, c in at.items() if s != session} | ({session: click} if click is not None else {})
    return out


def passes(tree: Filter | None, row: Row) -> bool:
    """What a filter says of one row."""
    if tree is None:
        return True
    if isinstance(tree, And):
        return all(passes(part, row) for part in tree.parts)
    if isinstance(tree, Or):
        return any(passes(part, row) for part in tree.parts)
    if isinstance(tree, Not):
        return not passes(tree.inner, row)
    value = row.get(tree.column)
    if isinstance(tree, IsNull):
        return value is None
    if value is None:
        return False
    if isinstance(tree, In):
        return value in tree.values
    compared = {"==": value == tree.value, "!=": value != tree.value}
    if isinstance(tree, Compare) and tree.op in compared:
        return compared[tree.op]
    return bool(
        {"<": value < tree.value, "<=": value <= tree.value, ">": value > tree.value}.get(tree.op, value >= tree.value)
    )


def keyed(rows: Sequence[Row], join_keys: Sequence[str]) -> dict[Key, list[Row]]:
    """Rows of each key."""
    out: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        key = tuple(row.get(JOIN_COLUMNS[name]) or "" for name in join_keys)
        if all(key):
            out[key].append(row)
    return out


def expected(definition: FeatureDefinition, rows: Sequence[Row], clock_us: int) -> Any:
    """Value of a feature of one key at a time: None for null."""
    slide, newest = definition.slide_us, clock_us // definition.slide_us
    tree = parse(definition.where) if definition.where else None
    inside = [
        row
        for row in rows
        if newest - definition.tiles < row["time_us"] // slide <= newest
        and row.get(definition.column) is not None
        and passes(tree, row)
    ]
    value = _FUNCTIONS[definition.function](definition, inside, clock_us)
    return _typed(definition.value_type, value)


def _numbers(definition: FeatureDefinition, rows: Sequence[Row]) -> list[Any]:
    return [row[definition.column] for row in rows]


def _ratio(definition: FeatureDefinition, rows: Sequence[Row], _: int) -> float | None:
    above = sum(passes(parse(definition.numerator), row) for row in rows)
    below = sum(passes(parse(definition.denominator), row) for row in rows)
    weight = definition.prior_weight
    return (above + definition.prior * weight) / (below + weight) if below + weight > 0 else None


def _decay(definition: FeatureDefinition, rows: Sequence[Row], clock_us: int) -> float:
    slide = definition.slide_us
    ages = [(clock_us // slide - row["time_us"] // slide) * slide for row in rows]
    return sum(2.0 ** -(age / definition.half_life_us) for age in ages)


def _std(definition: FeatureDefinition, rows: Sequence[Row], _: int) -> float | None:
    values = _numbers(definition, rows)
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _newest(definition: FeatureDefinition, rows: Sequence[Row]) -> list[Any]:
    ordered = sorted(enumerate(rows), key=lambda pair: (pair[1]["time_us"], pair[0]), reverse=True)
    return [row[definition.column] for _, row in ordered]


def _top(definition: FeatureDefinition, rows: Sequence[Row], _: int) -> list[Any]:
    counts = Counter(_numbers(definition, rows))
    return [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][: definition.n]


_FUNCTIONS: Mapping[str, Any] = {
    "count": lambda d, rows, _: len(rows),
    "sum": lambda d, rows, _: math.fsum(_numbers(d, rows)),
    "mean": lambda d, rows, _: math.fsum(_numbers(d, rows)) / len(rows) if rows else None,
    "min": lambda d, rows, _: min(_numbers(d, rows), default=None),
    "max": lambda d, rows, _: max(_numbers(d, rows), default=None),
    "std": _std,
    "count_distinct": lambda d, rows, _: len(set(_numbers(d, rows))),
    "last": lambda d, rows, _: next(iter(_newest(d, rows)), None),
    "last_n": lambda d, rows, _: _newest(d, rows)[: d.n],
    "top_k": _top,
    "ratio": _ratio,
    "decay": _decay,
}


def _typed(value_type: str, value: Any) -> Any:
    if value_type.endswith("_LIST"):
        return [_typed(value_type.removesuffix("_LIST"), one) for one in value]
    if value is None:
        return None
    convert: Mapping[str, Any] = {
        "BOOL": lambda v: v > 0, "BYTES": str.encode, "STRING": str, "UNIX_TIMESTAMP": lambda v: v // SECOND,
        "INT64": int, "INT32": int,
    }  # fmt: skip
    return convert.get(value_type, float)(value)


def values_of(rows: ViewRows, field: str) -> dict[Key, Any]:
    """Published values of one field by key: None for null."""
    column = rows.columns[field]
    values = column.values.tolist() if hasattr(column.values, "tolist") else list(column.values)
    nulls = column.nulls.tolist() if column.nulls is not None else [False] * len(values)
    return {key: None if null else value for key, value, null in zip(rows.keys, values, nulls, strict=True)}


def same(want: Any, got: Any) -> bool:
    """Equal: counts, texts and lists exactly, floats as float32 allows."""
    if isinstance(want, list) and isinstance(got, list):
        return len(want) == len(got) and all(same(*pair) for pair in zip(want, got, strict=True))
    if isinstance(want, float) and isinstance(got, float):
        return math.isclose(want, got, rel_tol=1e-6, abs_tol=1e-6)
    return bool(want == got)
