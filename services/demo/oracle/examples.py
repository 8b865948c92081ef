"""Every impression gives exactly the examples it should."""

import base64
from collections import Counter, defaultdict
from typing import Any

from freshrank.v1 import events_pb2

from services.demo.oracle.heads import Head
from services.demo.oracle.log import BOT, FORGET, IMPRESSION, Brokers, Row, in_order, rows
from services.demo.oracle.verdicts import Verdicts

HOLD_US = 10_000_000
"""How long an action waits for its impression."""


def check_examples(brokers: Brokers, log: list[Row], heads: list[Head], verdicts: Verdicts) -> None:
    """Each impression gives one INITIAL, a flip for each head answered in time, and one CLOSED after the window; each
    forget is passed on."""
    want = expected_examples(log, heads)
    got: dict[str, list[Row]] = defaultdict(list)
    newest = {row["p"]: row["o"] for row in log}
    for row in in_order(rows(brokers, "examples")):
        # The clock goes on while we read: what followed from later records is for the next ledger.
        if row["src_offset"] <= newest.get(row["p"], -1):
            got[row["impression_id"]].append(row)
    forgets = Counter((r["p"], r["o"]) for r in log if r["kind"] == FORGET)
    told = Counter((r["p"], r["src_offset"]) for r in got.pop("", []) if r["kind"] == FORGET)
    wrong = Counter[str](forgets=int((forgets - told).total() + (told - forgets).total()))
    for impression_id, (shown, flips, closes) in want.items():
        mine = got.get(impression_id, [])
        initial = [r for r in mine if r["kind"] == 0]
        wrong["initial"] += len(initial) != 1 or not set(shown) <= set(initial[0]["items"])
        flipped = Counter[tuple[str, int]]()
        for row in (r for r in mine if r["kind"] == 1):
            message = events_pb2.Impression.FromString(row["impression"])
            for place, bits in zip(row["items"], row["labels"], strict=True):
                for head in range(len(heads)):
                    if bits >> head & 1:
                        flipped[message.items[place].item_id, head] += 1
        wrong["flips"] += flipped != Counter(dict.fromkeys(flips, 1))
        wrong["closed"] += sum(r["kind"] == 2 for r in mine) != int(closes)
    unknown = len(set(got) - set(want))
    total = sum(len(f) for _, f, _ in want.values())
    detail = f"{len(want)} impressions, {total} flips; wrong: {dict(wrong)}; of unknown impressions: {unknown}"
    verdicts.add("examples exactly as they should be", not sum(wrong.values()) and not unknown, detail)


Want = dict[str, tuple[list[int], set[tuple[str, int]], bool]]


def expected_examples(log: list[Row], heads: list[Head]) -> Want:
    """Impression -> (places shown, flips as (item, head), whether its first window has ended)."""
    want: Want = {}
    made: dict[str, dict[str, Any]] = {}
    early: dict[str, list[tuple[Row, int]]] = defaultdict(list)
    clock: dict[int, int] = defaultdict(int)
    for row in log:
        p = row["p"]
        clock[p] = max(clock[p], row["time_us"])
        if row["kind"] == IMPRESSION:
            message = events_pb2.Impression.FromString(row["impression"])
            shown = [place for place, item in enumerate(message.items) if item.shown]
            items = {message.items[place].item_id for place in shown}
            want[message.impression_id] = (shown, set(), False)
            made[message.impression_id] = {"time_us": row["time_us"], "user": message.user_id, "items": items, "p": p}
            for action, at_us in early.pop(message.impression_id, []):
                if clock[p] - at_us <= HOLD_US:
                    answer(action, clock[p], message.impression_id, want, made, heads)
        elif row["token"] and not row["verdict"] & BOT and (impression_id := impression_of(row["token"])):
            if impression_id not in made:
                early[impression_id].append((row, clock[p]))
            else:
                answer(row, clock[p], impression_id, want, made, heads)
    ended = {i: clock[m["p"]] >= m["time_us"] + heads[0].window_us for i, m in made.items()}
    return {i: (shown, flips, ended[i]) for i, (shown, flips, _) in want.items()}


def impression_of(token: str) -> str:
    """Impression id inside an attribution token; empty when it is none."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[1:17].hex()
    except ValueError:
        return ""


def answer(row: Row, clock_us: int, impression_id: str, want: Want, made: dict[str, Any], heads: list[Head]) -> None:
    """Note the flip of an action that answers an impression inside its head's window, by the log's clock."""
    impression, flips = made[impression_id], want[impression_id][1]
    if row["user"] != impression["user"] or row["item"] not in impression["items"]:
        return
    # After the first window only items that have a label are remembered.
    over = clock_us >= impression["time_us"] + heads[0].window_us
    if over and not any(item == row["item"] for item, _ in flips):
        return
    for number, head in enumerate(heads):
        if head.fired(row) and clock_us < impression["time_us"] + head.window_us:
            flips.add((row["item"], number))
