"""The fold of one partition of interactions: rows in, examples out. Pure but for the spill file, which follows it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from services.common import records, tokens
from services.common.errors import CorruptState, InvalidInput
from services.common.letters import dead_letter
from services.common.records import BOT, FORGET, IMPRESSION, Message
from services.common.stage import Snapshot
from services.common.topics import INTERACTIONS
from services.joiner.examples import Cause, Outputs, Rows
from services.joiner.held import Action, Held
from services.joiner.join import Joiner, JoinRules
from services.joiner.labels import COLUMNS
from services.joiner.spill import Spill

_NEEDED = ("src_offset", "src_index", "kind", "time_us", "received_us", "verdict")
_MOST_ROWS = 1 << 20
TICK_OFFSET = -1
"""Source of ticks made by ingest: they only move the clock."""


@dataclass(frozen=True)
class Rules:
    """Everything the fold decides by."""

    join: JoinRules
    tokens: tokens.Tokens
    hold_us: int = 10_000_000
    """Log time an action waits for an impression that is still on its way."""
    held_actions: int = 10_000


class _Columns:
    """The columns of a message that are looked at, as lists; the others are read where they are needed."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.src_offset, self.src_index, self.kind, self.time_us, self.received_us, self.verdict = (
            batch.column(name).to_pylist() for name in _NEEDED
        )

    def at(self, name: str, row: int) -> Any:
        """One value."""
        return self.batch.column(name)[row].as_py()

    def payload(self, row: int) -> bytes:
        """One row as a message."""
        return records.encode(self.batch.slice(row, 1))


class JoinerFold:
    """State of one partition. `spill` must be as of the snapshot (`spill.open_spill`)."""

    def __init__(self, partition: int, rules: Rules, spill: Spill, snapshot: Snapshot | None = None) -> None:
        self.next_offset = 0
        self.clock_us = 0
        self._partition = partition
        self._rules = rules
        self._spill = spill
        self._join = Joiner(rules.join, spill)
        self._held = Held(rules.hold_us, rules.held_actions)
        self._taken = (-1, -1)
        self._looked_at = rules.join.heads.kinds | {IMPRESSION, FORGET}
        self._out = Outputs()
        if snapshot is not None:
            self.next_offset = snapshot.next_offset
            self.clock_us = int(snapshot.meta["clock_us"])
            self._taken = (int(snapshot.meta["taken"][0]), int(snapshot.meta["taken"][1]))
            self._join.restore(snapshot)
            self._held.restore(snapshot.meta["held"])

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """Take messages in log order; ones below `next_offset` were taken before and are passed over.

        Raises TemporaryError or CorruptState when the spill file cannot be used; the fold is then void.
        """
        self._out = Outputs()
        self._join.rows, self._join.counts = Rows(), self._out.others
        with self._spill.step(lambda: self.next_offset):
            for message in messages:
                if message.offset >= self.next_offset:
                    self._message(message)
                    self.next_offset = message.offset + 1
        out = self._out
        out.messages, out.examples = self._join.rows.encode(), self._join.rows.kinds
        out.open_impressions, out.spilled_rows = len(self._join), self._join.clicked_rows
        out.held_actions = len(self._held)
        return out

    def snapshot(self) -> Snapshot:
        """Copy the state, and make the spill file durable up to it."""
        self._spill.snapshot(self.next_offset)
        state = self._join.snapshot()
        own = {"clock_us": self.clock_us, "taken": list(self._taken), "held": self._held.to_json()}
        return Snapshot(self.next_offset, state.arrays, {**state.meta, **own})

    def spill_bytes(self) -> int:
        """Bytes on disk beside the snapshot."""
        return self._spill.size_bytes()

    def _message(self, message: Message) -> None:
        try:
            columns = _Columns(_decode(message.value))
        except InvalidInput as error:
            self._refuse(error, message.value or b"", message.offset, 0)
            return
        for row in range(columns.batch.num_rows):
            self._row(columns, message.offset, row)

    def _row(self, columns: _Columns, offset: int, row: int) -> None:
        place = (columns.src_offset[row], columns.src_index[row])
        if place[0] != TICK_OFFSET:
            if place <= self._taken:
                self._out.others["repeated_row"] += 1
                return
            self._taken = place
        self.clock_us = max(self.clock_us, columns.time_us[row])
        due = min(self._join.next_due_us, self._held.next_due_us or self._join.next_due_us)
        if self.clock_us < due and columns.kind[row] not in self._looked_at:
            return
        cause = Cause(offset, row, self.clock_us, columns.received_us[row])
        self._join.advance(cause)
        self._let_go()
        try:
            self._handle(columns, row, cause)
        except InvalidInput as error:
            self._refuse(error, columns.payload(row), offset, row)

    def _handle(self, columns: _Columns, row: int, cause: Cause) -> None:
        kind = columns.kind[row]
        if kind == IMPRESSION:
            self._show(columns, row, cause)
        elif kind == FORGET:
            user, before_us = columns.at("user", row) or "", columns.time_us[row]
            self._join.forget(cause, user, before_us)
            self._out.others["forgotten_actions"] += self._held.forget(user, before_us)
        elif kind in self._looked_at:
            self._act(columns, row, cause)

    def _show(self, columns: _Columns, row: int, cause: Cause) -> None:
        payload = columns.at("impression", row) or b""
        user, verdict = columns.at("user", row) or "", columns.verdict[row]
        shown = self._join.show(cause, payload, user, columns.time_us[row], verdict)
        if shown is None:
            return
        self._out.received_us.append(cause.received_us)
        for action in self._held.take(shown):
            self._count(self._join.act(cause, action), action)
        self._join.settle(cause)

    def _act(self, columns: _Columns, row: int, cause: Cause) -> None:
        token = columns.at("token", row)
        if token is None:
            self._out.actions["no_token"] += 1
            return
        if columns.verdict[row] & BOT:
            self._out.actions["bot"] += 1
            return
        action = self._action(columns, row, cause, token)
        outcome = self._join.act(cause, action)
        if outcome == "unknown":
            self._held.add(replace(action, payload=columns.payload(row)), self.clock_us)
            outcome = "held"
            self._let_go()
        self._count(outcome, action)

    def _action(self, columns: _Columns, row: int, cause: Cause, token: str) -> Action:
        user = columns.at("user", row) or ""
        try:
            impression_id = self._rules.tokens.check(token, user, self.clock_us)
        except InvalidInput:
            self._out.actions["bad_token"] += 1
            raise
        return Action(
            kind=columns.kind[row],
            time_us=columns.time_us[row],
            received_us=columns.received_us[row],
            user=user,
            item=columns.at("item", row) or "",
            impression_id=impression_id,
            issued_us=tokens.issued_us(token),
            values={name: columns.at(name, row) for name in COLUMNS},
            offset=cause.offset,
            index=row,
            partition=self._partition,
        )

    def _count(self, outcome: str, action: Action) -> None:
        self._out.actions[outcome] += 1
        if outcome == "flipped":
            self._out.received_us.append(action.received_us)

    def _let_go(self) -> None:
        for action in self._held.over(self.clock_us):
            self._out.actions["unknown_impression"] += 1
            error = InvalidInput("attribution_token", "unknown_impression", "names an impression that never came")
            partition = self._partition if action.partition < 0 else action.partition
            self._refuse(error, action.payload, action.offset, action.index, partition)

    def _refuse(
        self, error: InvalidInput, payload: bytes, offset: int, index: int, partition: int | None = None
    ) -> None:
        where = self._partition if partition is None else partition
        letter = dead_letter("joiner", INTERACTIONS.name, error, payload, where, offset, index, self.clock_us)
        self._out.dead_letters.append(letter)
        self._out.others[f"dead_{error.reason}"] += 1


def _decode(value: bytes | None) -> pa.RecordBatch:
    try:
        batch = records.decode(value or b"")
        batch.validate(full=True)
    except (CorruptState, pa.ArrowException) as error:
        raise InvalidInput("record", "malformed", "is no message of interactions") from error
    if not batch.schema.equals(records.INTERACTIONS) or batch.num_rows >= _MOST_ROWS:
        raise InvalidInput("record", "malformed", "is no message of interactions")
    for name in _NEEDED:
        if batch.column(name).null_count:
            raise InvalidInput(name, "missing_field", "is null")
    return batch
