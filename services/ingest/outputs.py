"""What follows from a batch of records: rows, dead letters, records sent on, and counts of what was done."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from services.common import records
from services.ingest.draft import COLUMNS

Rows = list[tuple[Any, ...]]

MISSING = ("session", "category", "price", "value", "quantity", "rating", "play_seconds", "play_share")
"""Columns whose absent values are counted (they travel as nulls: value and mask, never a zero)."""


@dataclass
class Outputs:
    """Effects of one step, in the order of the log."""

    messages: list[bytes] = field(default_factory=list)
    """Columns of INTERACTIONS for the same partition."""
    dead_letters: list[bytes] = field(default_factory=list)
    forwards: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """Partition of events.in, key, value."""
    received_us: list[int] = field(default_factory=list)
    """Arrival of each row that somebody caused."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Records by what became of them."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    steps: Counter[str] = field(default_factory=Counter)
    """Cleaning steps by how often they changed, dropped or refused."""
    missing: Counter[str] = field(default_factory=Counter)
    """Absent values by column."""
    clip_version: int = 0
    clip_bounds: dict[str, float] = field(default_factory=dict)
    """Bounds when their version changed in this step, else empty."""


def encode_rows(rows: Rows) -> tuple[list[bytes], Counter[str]]:
    """Messages of about a megabyte, and the absent values by column."""
    if not rows:
        return [], Counter()
    columns: dict[str, object] = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    batch = records.batch_of(records.INTERACTIONS, columns)
    return records.encode_split(batch), Counter({name: batch.column(name).null_count for name in MISSING})
