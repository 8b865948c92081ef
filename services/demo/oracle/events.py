"""Nothing acknowledged is lost or counted twice; item rows follow from the log."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from freshrank.v1 import events_pb2

from services.demo.oracle.log import (
    BOT,
    BY_QUERY,
    DWELL,
    FORGET,
    IMPRESSION,
    KINDS,
    REFORMULATION,
    TICK,
    Brokers,
    Row,
    read,
    unwrap,
)
from services.demo.oracle.verdicts import Verdicts

MOST_LETTERS = 80
"""Longer queries are not counted."""

SOON_US, LONG_US = 300_000_000, 600_000_000
COMPARED = ("src_partition", "kind", "time_us", "item", "query", "play_seconds")


def check_events(brokers: Brokers, acks: Path, log: list[Row], verdicts: Verdicts) -> None:
    """Acknowledged events: in events.in where the gateway said, and in interactions or dead letters exactly once."""
    acked = pq.read_table(acks).to_pylist()
    inbound: dict[tuple[int, int], set[str]] = {}
    impressions: Counter[str] = Counter()
    for partition, offset, _, value in read(brokers, "events.in"):
        try:
            records = list(unwrap(events_pb2.Inbound.FromString(value)))
        except Exception:  # a foreign producer's bytes: whatever they are, they are not ours to judge here
            continue
        inbound[partition, offset] = {r.event_id for r in records if isinstance(r, events_pb2.Event)}
        impressions.update(r.impression_id for r in records if isinstance(r, events_pb2.Impression))
    misplaced = sum(a["event_id"] not in inbound.get((a["partition"], a["offset"]), ()) for a in acked)
    verdicts.add(
        "acknowledged events are on the log", misplaced == 0, f"{len(acked)} acknowledged, {misplaced} not there"
    )
    seen: set[tuple[int, int, int]] = set()
    kept: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    for row in log:
        place = (row["p"], row["src_offset"], row["src_index"])
        if row["src_offset"] < 0 or place in seen:
            continue
        seen.add(place)
        if row["event_id"]:
            kept[row["event_id"]] += 1
        if row["kind"] == IMPRESSION:
            shown[events_pb2.Impression.FromString(row["impression"]).impression_id] += 1
    dead: Counter[str] = Counter()
    places: set[tuple[int, int, int]] = set()
    for _, _, _, value in read(brokers, "dead_letters"):
        letter = events_pb2.DeadLetter.FromString(value)
        place = (letter.partition, letter.offset, letter.index)
        if letter.stage != "ingest" or place in places:  # written again after a kill: the same place
            continue
        places.add(place)
        try:
            inside = list(unwrap(events_pb2.Inbound.FromString(letter.payload)))
        except Exception:  # a foreign producer's bytes
            continue
        dead.update(event.event_id for event in inside if isinstance(event, events_pb2.Event))
    ids = {a["event_id"] for a in acked}
    lost = sum(not kept[i] and not dead[i] for i in ids)
    double = sum(kept[i] > 1 for i in ids)
    verdicts.add(
        "acknowledged events lost",
        lost == 0,
        f"{lost} of {len(ids)}; {sum(1 for i in ids if not kept[i])} in dead letters",
    )
    verdicts.add("acknowledged events counted twice", double == 0, f"{double} of {len(ids)}")
    missing = sum(shown[i] != 1 for i in impressions)
    verdicts.add("impressions on the ordered log exactly once", missing == 0, f"{missing} wrong of {len(impressions)}")


def check_item_rows(log: list[Row], items: list[Row], verdicts: Verdicts) -> None:
    """The item topic holds a row for each acted-on item and for each item shown, one more of each that has a query, and
    nothing else."""
    for name, of_query in (("item", False), ("query", True)):
        want = expected_rows(log, name)
        mine = (r for r in items if r[name] and bool(r["src_index"] & BY_QUERY) == of_query)
        got = Counter(tuple(r[column] for column in COMPARED) for r in mine)
        missing = sum((want - got).values()) + sum((got - want).values())
        detail = f"{sum(want.values())} expected, {sum(got.values())} there, {missing} differ"
        verdicts.add(f"{name} rows follow from the log", missing == 0, detail)


def expected_rows(log: list[Row], name: str) -> Counter[tuple[Any, ...]]:
    """What the item topic must hold: a row for each act and for each item shown that has an `item`, or a `query`."""
    out: Counter[tuple[Any, ...]] = Counter()
    for row in log:
        if row["kind"] in (TICK, FORGET) or (row["verdict"] and row["verdict"] & BOT):
            continue
        if name == "query" and len(row["query"] or "") > MOST_LETTERS:
            continue
        for item in row["impression_items"] or [] if row["kind"] == IMPRESSION else [row["item"]]:
            if item if name == "item" else row["query"]:
                out[row["p"], row["kind"], row["time_us"], item, row["query"], row["play_seconds"]] += 1
    return out + given_up(log) + stayed(log) if name == "query" else out


def given_up(log: list[Row]) -> Counter[tuple[Any, ...]]:
    """Queries that a visit gave up: other words within five minutes of the clock, nothing done with what was found."""
    out: Counter[tuple[Any, ...]] = Counter()
    last: dict[tuple[int, str], dict[str, Any]] = {}
    clocks: dict[int, int] = {}
    for row in log:
        p = row["p"]
        clocks[p] = max(clocks.get(p, 0), row["time_us"])
        if row["kind"] == FORGET:
            last = {k: s for k, s in last.items() if s["user"] != row["user"] or s["time_us"] > row["time_us"]}
        if row["kind"] in (TICK, FORGET) or (row["verdict"] or 0) & BOT or not (row["query"] and row["session"]):
            continue
        before = last.get((p, row["session"]), {})
        if before and clocks[p] > before["time_us"] + SOON_US:
            before = {}
        same = bool(before) and before["query"] == row["query"]
        if row["kind"] not in (KINDS["search"], IMPRESSION):
            before |= {"used": True} if same else {}
        elif same:
            before["time_us"] = max(before["time_us"], row["time_us"])
        else:
            last[p, row["session"]] = {**row, "used": False}
            if before and not before["used"] and len(before["query"]) <= MOST_LETTERS:
                out[p, REFORMULATION, row["time_us"], None, before["query"], None] += 1
    return out


def stayed(log: list[Row]) -> Counter[tuple[Any, ...]]:
    """Clicks of searches after which the visit went on to something else within ten minutes of the clock."""
    out: Counter[tuple[Any, ...]] = Counter()
    at: dict[tuple[int, str], Row] = {}
    clocks: dict[int, int] = {}
    for row in log:
        p, visit = row["p"], (row["p"], row["session"])
        clocks[p] = max(clocks.get(p, 0), row["time_us"])
        if row["kind"] == FORGET:
            at = {k: c for k, c in at.items() if c["user"] != row["user"] or c["time_us"] > row["time_us"]}
        if row["kind"] in (TICK, FORGET) or (row["verdict"] or 0) & BOT or not row["session"]:
            continue
        if visit in at and clocks[p] > at[visit]["time_us"] + LONG_US:
            del at[visit]
        if visit in at and row["time_us"] > at[visit]["time_us"] and elsewhere(at[visit], row):
            click = at.pop(visit)
            seconds = float(np.float32((row["time_us"] - click["time_us"]) / 1e6))
            out[p, DWELL, row["time_us"], click["item"], click["query"], seconds] += 1
        of_search = row["kind"] == KINDS["click"] and 0 < len(row["query"] or "") <= MOST_LETTERS
        if visit not in at and of_search and row["item"]:
            at[visit] = row
    return out


def elsewhere(click: Row, row: Row) -> bool:
    """Whether a row is a search, its answer, or about another item than was clicked on."""
    if row["kind"] == IMPRESSION:
        return bool(row["query"])
    return bool(row["kind"] == KINDS["search"] or (row["item"] and row["item"] != click["item"]))
