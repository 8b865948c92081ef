"""A small shop's past, as rows and as files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freshrank.v1.events_pb2 import EventKind

from services.cli.history.catalogue import Content
from services.cli.history.events import History, Interaction, read_history
from services.cli.history.impressions import Rules, Synthesis
from services.common.content import tokens_of
from services.common.tokens import Tokens

T0 = 1_760_000_000_000_000
SECOND, MINUTE, DAY = 1_000_000, 60_000_000, 86_400_000_000
NOW = T0 + 365 * DAY
CLICK, CART, BUY, VIEW = (
    EventKind.EVENT_KIND_CLICK,
    EventKind.EVENT_KIND_ADD_TO_CART,
    EventKind.EVENT_KIND_PURCHASE,
    EventKind.EVENT_KIND_VIEW,
)
NAN = float("nan")
TOKENS = Tokens({1: b"k" * 16}, 1)
CONTENTS = {f"item-{n}": Content(tokens_of(["shoes"], "", f"shoe {n}"), "shoes") for n in range(50)}

Row = Mapping[str, Any]


def csv_file(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as a CSV file, columns of the first."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(**changes: Any) -> dict[str, Any]:
    """A click as a row of a file."""
    return {"user": "ada", "item": "item-1", "kind": "click", "time": "2025-10-09 08:53:20", **changes}


def history(path: Path, *rows: Row, **more: Any) -> History:
    """Rows through a file."""
    options = {"mapping": {}, "kinds": {}, "kind": "", "now_us": NOW, **more}
    return read_history([csv_file(path / "clicks.csv", rows)], **options)


def interaction(
    number: int = 0, kind: int = CLICK, item: str = "item-1", user: str = "ada", **more: Any
) -> Interaction:
    """The number-th row of the past, a minute after the one before."""
    fields: dict[str, Any] = {
        "event_id": f"event-{number}",
        "user": user,
        "kind": kind,
        "time_us": T0 + number * MINUTE,
        "item": item,
        "session": "visit",
        "query": "",
        "numbers": (NAN,) * 5,
        "context": ("DE", "", ""),
        "shown": (),
    }
    return Interaction(**{**fields, **more})


def synthesis(seed: int = 1, **rules: Any) -> Synthesis:
    """A synthesis that has seen forty items touched."""
    made = Synthesis(Rules(**rules), TOKENS, CONTENTS, seed)
    for number in range(40):
        made.take(interaction(number - 40, VIEW, f"item-{number}", "bob"))
    return made
