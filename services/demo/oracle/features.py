"""Values in the online store equal a recomputation from the whole log, at the time they were written for.

From all of it, not only up to the position they carry: all stages have caught up, and an old value that was put back
is right as of its position and wrong all the same.
"""

import math
from collections.abc import Iterator
from typing import Any

from services.demo.oracle.log import BOT, BY_QUERY, DWELL, FORGET, IMPRESSION, PLACES, TICK, Row
from services.demo.oracle.table import Table
from services.demo.oracle.verdicts import Verdicts

COLUMN_OF = {"user_id": "user", "item_id": "item", "category": "category", "session_id": "session", "query": "query"}


def check_features(store: Any, users: list[Row], items: list[Row], verdicts: Verdicts) -> None:
    """Values in the online store equal a recomputation at each key's clock, for all keys."""
    counted = [examined(r, r["src_index"] % PLACES) for r in items if r["kind"] not in (TICK, FORGET)]
    logs = {
        "user": list(explode(users)),
        "item": [r for r in counted if not r["src_index"] & BY_QUERY],
        "query": [r for r in counted if r["src_index"] & BY_QUERY],
    }
    tables = {side: Table(log) for side, log in (logs | {"user": list(explode(remembered(users)))}).items()}
    newest = {"user": max(r["time_us"] for r in users), "item": max(r["time_us"] for r in items)}
    ends = {**newest, "query": newest["item"]}
    for view, (join_keys, features) in definitions(store).items():
        side = side_of(join_keys)
        columns = [COLUMN_OF[key] for key in join_keys]
        keys = list({tuple(r[c] for c in columns): None for r in logs[side] if all(r[c] for c in columns)})
        names = [f["name"] for f in features]
        online = fetch(store, view, join_keys, keys, [*names, "_pos", "_clock"])
        known = [(*key, clock or ends[side]) for key, clock in zip(keys, online["_clock"], strict=True)]
        present = [pos is not None for pos in online["_pos"]]
        due: set[int] = set()
        tables[side].keys(columns, known)
        wrong, values, example = 0, 0, ""
        for feature in features:
            want = tables[side].values(feature)
            for number, got in enumerate(online[feature["name"]]):
                if not present[number]:
                    due |= {number} if says(feature, want.get(number)) else set()
                    continue
                values += 1
                if not same(feature, want.get(number), got):
                    wrong += 1
                    example = (
                        example or f"; e.g. {feature['name']} of {keys[number]}: {got} instead of {want.get(number)}"
                    )
        example += f"; absent e.g. {keys[min(due)]}" if due else ""
        detail = f"{len(keys)} keys, {values} values, {wrong} wrong, {len(due)} keys absent{example}"
        verdicts.add(f"features of {view} equal a recomputation", wrong == 0 and not due, detail)


def side_of(join_keys: list[str]) -> str:
    """The log that a view is folded from.

    >>> side_of(["query", "item_id"]), side_of(["user_id", "category"])
    ('query', 'user')
    """
    if {"user_id", "session_id"} & set(join_keys):
        return "user"
    return "query" if "query" in join_keys else "item"


def remembered(log: list[Row]) -> list[Row]:
    """Rows that no later wish of their shopper covers; of views of shoppers alone, items keep what was done to them.

    >>> wish = {"kind": FORGET, "user": "ada", "time_us": 7}
    >>> rows = [{"kind": 1, "user": user, "time_us": at} for user, at in (("ada", 5), ("ben", 6), ("ada", 8))]
    >>> [(row["user"], row["time_us"]) for row in remembered([*rows, wish, rows[0]])]
    [('ben', 6), ('ada', 8), ('ada', 7), ('ada', 5)]
    """
    before: dict[str, int] = {}
    kept = []
    for row in reversed(log):
        if row["kind"] == FORGET:
            before[row["user"]] = max(row["time_us"], before.get(row["user"], -1))
        if row["kind"] == FORGET or row["time_us"] > before.get(row["user"], -1):
            kept.append(row)
    return kept[::-1]


def explode(log: list[Row]) -> Iterator[Row]:
    """Rows as features see them: an impression becomes one row per shown item."""
    for row in log:
        if row["kind"] in (TICK, FORGET) or (row["verdict"] or 0) & BOT:
            continue
        if row["kind"] != IMPRESSION:
            yield examined(row, 0)
            continue
        categories = row["impression_categories"] or [None] * len(row["impression_items"])
        for place, (item, category) in enumerate(zip(row["impression_items"], categories, strict=True)):
            yield examined({**row, "item": item, "category": category or None}, place)


def examined(row: Row, place: int) -> Row:
    """The row with how much of a look it got, if it is of a shown item, and what its seconds are of."""
    look, played = 1 / (1 + place) if row["kind"] == IMPRESSION else None, row["play_seconds"]
    stayed = row["kind"] == DWELL
    seconds = {"play_seconds": None if stayed else played, "dwell_seconds": played if stayed else None}
    return {**row, "examined": look, **seconds}


def definitions(store: Any) -> dict[str, tuple[list[str], list[dict[str, Any]]]]:
    """View -> (join keys, features), as Feast's registry has them."""
    out = {}
    for view in store.list_stream_feature_views():
        tags = {f.name: dict(f.tags) for f in view.features}
        features = []
        for a in view.aggregations:
            name = a.resolved_name(a.time_window)
            t = tags[name]
            features.append(
                {"name": name, "function": a.function, "column": a.column,
                 "window_us": round(a.time_window.total_seconds() * 1e6),
                 "slide_us": round(a.slide_interval.total_seconds() * 1e6),
                 "where": t.get("where", ""), "n": int(t.get("n", 0)), "numerator": t.get("numerator", ""),
                 "denominator": t.get("denominator", ""), "prior": float(t.get("prior", 0)),
                 "prior_weight": float(t.get("prior_weight", 0)), "half_life_us": duration(t.get("half_life", "0s"))}
            )  # fmt: skip
        out[view.name] = (list(view.join_keys), features)
    return out


def duration(text: str) -> int:
    """Microseconds of `90s`, `5m`, `6h`, `7d`."""
    return int(float(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]] * 1e6)


def fetch(
    store: Any, view: str, join_keys: list[str], keys: list[tuple[Any, ...]], names: list[str]
) -> dict[str, list[Any]]:
    """Values by feature name in the order of the keys, through Feast's own reader, 1,000 keys at a time."""
    out: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(keys), 1000):
        entities = [dict(zip(join_keys, key, strict=True)) for key in keys[start : start + 1000]]
        answer = store.get_online_features([f"{view}:{name}" for name in names], entities).to_dict()
        for name in names:
            out[name] += answer[name]
    return out


def says(feature: dict[str, Any], want: Any) -> bool:
    """Whether a value says more than nothing would: no count, an empty list, a share that is its prior.

    >>> ratio = {"function": "ratio", "prior": 0.05, "prior_weight": 20.0}
    >>> says(ratio, 0.05), says(ratio, 0.06), says({"function": "count"}, 0)
    (False, True, False)
    """
    nothing = feature["prior"] if feature["function"] == "ratio" and feature["prior_weight"] else 0
    return bool(want) and want != nothing


def same(feature: dict[str, Any], want: Any, got: Any) -> bool:
    """Counts and lists exactly, floats to 1e-6 of float32; an empty count is 0 or null."""
    if isinstance(got, list) or isinstance(want, list):
        return list(got or []) == list(want or [])
    if feature["function"] in ("count", "count_distinct"):
        return (got or 0) == (want or 0)
    if want is None and feature["function"] in ("sum", "decay"):
        want = 0.0
    if want is None and feature["function"] == "ratio" and feature["prior_weight"]:
        want = feature["prior"]
    if want is None or got is None:
        return want is None and got is None
    if isinstance(want, str):
        return bool(want == got)
    return math.isclose(float(want), float(got), rel_tol=1e-6, abs_tol=1e-6)
