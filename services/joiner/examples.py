"""Rows of examples while a step makes them, and everything else that follows from the step."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common import records

COLUMNS: tuple[str, ...] = tuple(records.EXAMPLES.names)


@dataclass
class Outputs:
    """Effects of one step, in the order of the log."""

    messages: list[bytes] = field(default_factory=list)
    """Columns of EXAMPLES for the same partition."""
    dead_letters: list[bytes] = field(default_factory=list)
    examples: Counter[int] = field(default_factory=Counter)
    """Rows by kind."""
    actions: Counter[str] = field(default_factory=Counter)
    """Actions by what became of them; a held one is counted again when that is known."""
    others: Counter[str] = field(default_factory=Counter)
    """What else happened: repeated rows, forgotten and early closed impressions, evicted rows, dead letters."""
    received_us: list[int] = field(default_factory=list)
    """Arrival of what caused each flip and each first example."""
    open_impressions: int = 0
    spilled_rows: int = 0
    held_actions: int = 0


@dataclass(frozen=True)
class Cause:
    """The row of interactions that is being applied."""

    offset: int
    index: int
    clock_us: int
    received_us: int

    @property
    def seq(self) -> int:
        """Place of the row in the whole log of its partition, growing."""
        return self.offset << 20 | self.index


class Rows:
    """Collects rows; numbers them within each message, so that (offset, number) only grows."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._offset = -1
        self._number = 0
        self.kinds: Counter[int] = Counter()

    def add(
        self,
        cause: Cause,
        kind: int,
        event_time_us: int,
        impression_id: str,
        user: str,
        items: Sequence[int],
        labels: Sequence[int],
        weights: Sequence[float],
        impression: bytes,
    ) -> None:
        """One row: about `items` (indexes into `impression`), with the label bits and weight of each."""
        if cause.offset != self._offset:
            self._offset, self._number = cause.offset, 0
        place = (cause.offset, self._number, kind, cause.clock_us, event_time_us, cause.received_us)
        self._rows.append((*place, impression_id, user, items, labels, weights, impression))
        self._number += 1
        self.kinds[kind] += 1

    def encode(self) -> list[bytes]:
        """The rows as messages of about a megabyte."""
        if not self._rows:
            return []
        columns: dict[str, object] = dict(zip(COLUMNS, zip(*self._rows, strict=True), strict=True))
        return records.encode_split(records.batch_of(records.EXAMPLES, columns))
