"""Interactions for tests of the joiner, and a reader of what comes out."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from freshrank.v1.events_pb2 import DeadLetter, EventKind, Impression, ImpressionItem

from services.common import records
from services.common.records import FORGET, IMPRESSION, TICK, Message
from services.common.stage import Snapshot
from services.common.tokens import Tokens
from services.joiner.examples import Outputs
from services.joiner.fold import JoinerFold, Rules
from services.joiner.join import JoinRules
from services.joiner.labels import DEFAULT, Heads
from services.joiner.sample import Sampling
from services.joiner.spill import Spill

T0 = 1_760_000_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
CLICK, CART, BUY = (
    EventKind.EVENT_KIND_CLICK,
    EventKind.EVENT_KIND_ADD_TO_CART,
    EventKind.EVENT_KIND_PURCHASE,
)
PLAY, VIEW = EventKind.EVENT_KIND_PLAY, EventKind.EVENT_KIND_VIEW
TOKENS = Tokens({1: b"k" * 16}, 1)

Row = dict[str, Any]


def rules(
    heads: str = DEFAULT,
    sampling: Sampling | None = None,
    tokens: Tokens = TOKENS,
    hold_us: int = 10 * SECOND,
    **join: Any,
) -> Rules:
    """The rules of a fold."""
    return Rules(JoinRules(Heads.parse(heads), sampling or Sampling(), **join), tokens, hold_us)


def fold(on: Rules | None = None, spill: Spill | None = None, snapshot: Snapshot | None = None) -> JoinerFold:
    """A fold; its spill is in memory unless one is given."""
    return JoinerFold(0, on or rules(), spill or Spill(None), snapshot)


def impression_id(number: int) -> str:
    """The id of an impression."""
    return f"{number:032x}"


def shown(number: int = 0, at_us: int = T0, user: str = "ada", items: int = 3, unshown: int = 0, **more: Any) -> Row:
    """The row of an impression of item-0, item-1, ..., then unshown candidates."""
    message = Impression(
        impression_id=impression_id(number),
        user_id=user,
        time_us=at_us,
        user_features=[1.0],
        user_feature_ids=[5],
        items=[ImpressionItem(item_id=f"item-{n}", shown=n < items) for n in range(items + unshown)],
        **{name: value for name, value in more.items() if name == "degradation"},
    )
    return {
        "kind": IMPRESSION,
        "time_us": at_us,
        "user": user,
        "event_id": impression_id(number),
        "impression": message.SerializeToString(),
        "verdict": more.get("verdict", 0),
    }


def action(kind: int = CLICK, at_us: int = T0 + SECOND, answers: int = 0, item: int = 0, **more: Any) -> Row:
    """The row of an event with the token of an impression, issued at T0 to the same user unless said otherwise."""
    user = more.get("user", "ada")
    token = TOKENS.issue(impression_id(answers), more.pop("issued_to", user), more.pop("issued_us", T0))
    return {"kind": kind, "time_us": at_us, "user": user, "item": f"item-{item}", "token": token, **more}


def tick(at_us: int) -> Row:
    """A row that only moves the clock."""
    return {"kind": TICK, "time_us": at_us, "src_offset": -1}


def forget(user: str, before_us: int) -> Row:
    """A row that makes the fold forget a shopper."""
    return {"kind": FORGET, "time_us": before_us, "user": user}


def log(rows: Sequence[Row], per_message: int = 1) -> list[Message]:
    """Messages of so many rows each; rows come from offset 0, 1, ... of events.in, except ticks."""
    numbered = [
        {"src_offset": n, "src_index": 0, "received_us": row["time_us"], "verdict": 0, **row}
        for n, row in enumerate(rows)
    ]
    parts = [numbered[n : n + per_message] for n in range(0, len(numbered), per_message)]
    return [Message(offset, encoded(part)) for offset, part in enumerate(parts)]


def encoded(rows: Sequence[Row]) -> bytes:
    """One message."""
    columns: dict[str, object] = {name: [row.get(name) for row in rows] for name in records.INTERACTIONS.names}
    return records.encode(records.batch_of(records.INTERACTIONS, columns))


def run(rows: Sequence[Row], on: JoinerFold | None = None, per_message: int = 1) -> Outputs:
    """Apply rows to a new fold."""
    return (on or fold()).apply(log(rows, per_message))


def examples(*outputs: Outputs) -> list[Row]:
    """The rows of examples."""
    batches = [records.decode(value) for out in outputs for value in out.messages]
    return pa.Table.from_batches(batches, records.EXAMPLES).to_pylist()


def of_kind(kind: int, *outputs: Outputs) -> list[Row]:
    """The rows of one kind."""
    return [row for row in examples(*outputs) if row["kind"] == kind]


def letters(*outputs: Outputs) -> list[DeadLetter]:
    """The dead letters."""
    return [DeadLetter.FromString(value) for out in outputs for value in out.dead_letters]


def items_of(row: Row) -> list[str]:
    """The items a row of examples is about."""
    message = Impression.FromString(row["impression"])
    return [message.items[index].item_id for index in row["items"]]
