"""Actions that came before their impression: held for a moment of log time.

The gateway answers before its impression is acknowledged, so a quick click can lie on the log first.
"""

import base64
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Action:
    """An event that may answer an impression."""

    kind: int
    time_us: int
    received_us: int
    user: str
    item: str
    impression_id: str
    """From the token, checked."""
    issued_us: int
    values: dict[str, float | None]
    """The columns that triggers compare."""
    offset: int
    index: int
    partition: int = -1
    """Of interactions, where its offset counts."""
    payload: bytes = b""
    """Its row as a message of interactions, for a dead letter; filled while it is held."""


class Held:
    """At most `most` actions, each for `hold_us` of log time, in order of arrival."""

    def __init__(self, hold_us: int, most: int) -> None:
        self._hold_us = hold_us
        self._most = most
        self._waiting: deque[tuple[int, Action]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_due_us(self) -> int | None:
        """When the first one's time is over."""
        return self._waiting[0][0] if self._waiting else None

    def add(self, action: Action, clock_us: int) -> None:
        """Hold an action."""
        self._waiting.append((clock_us + self._hold_us, action))

    def over(self, clock_us: int) -> Iterator[Action]:
        """Let those go whose time is over or that are too many."""
        while self._waiting and (self._waiting[0][0] <= clock_us or len(self._waiting) > self._most):
            yield self._waiting.popleft()[1]

    def take(self, impression_id: str) -> list[Action]:
        """Those of an impression, which go."""
        if not self._waiting:
            return []
        taken = [action for _, action in self._waiting if action.impression_id == impression_id]
        if taken:
            self._waiting = deque(held for held in self._waiting if held[1].impression_id != impression_id)
        return taken

    def forget(self, user: str, before_us: int) -> int:
        """Drop those of a shopper that are older than a time; returns how many."""
        kept = deque(h for h in self._waiting if h[1].user != user or h[1].time_us >= before_us)
        dropped = len(self._waiting) - len(kept)
        self._waiting = kept
        return dropped

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for a snapshot."""
        return [
            {**asdict(action), "payload": base64.b64encode(action.payload).decode(), "until_us": until_us}
            for until_us, action in self._waiting
        ]

    def restore(self, held: list[dict[str, Any]]) -> None:
        """Take over what `to_json` gave."""
        self._waiting = deque()
        for entry in held:
            fields = {name: value for name, value in entry.items() if name != "until_us"}
            action = Action(**{**fields, "payload": base64.b64decode(entry["payload"])})
            self._waiting.append((int(entry["until_us"]), action))
