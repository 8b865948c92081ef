"""Impressions x actions -> examples: a state machine for one partition.

* An impression appears: label 0 for each kept item, at once (INITIAL).
* A head's action arrives while its window is open: a flip, once for each impression, item and head, and only for
  what was emitted (FLIP). Loss of INITIAL plus losses of flips is the loss of the full label.
* A shopper is forgotten: what waits of theirs is dropped, and a row says so (FORGET).
* The log clock passes the end of the click window: the final labels of the whole impression (CLOSED). What was
  clicked waits on disk for the slower heads; the rest is gone.

Windows are judged by the log clock: an action counts when the log had not passed the end of its window.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import mmh3
import numpy as np
from freshrank.v1.events_pb2 import Impression
from google.protobuf.message import DecodeError

from services.common.errors import InvalidInput
from services.common.records import CLOSED, FLIP, FORGET, INITIAL
from services.common.stage import Snapshot
from services.joiner.examples import Cause, Rows
from services.joiner.held import Action
from services.joiner.labels import Heads
from services.joiner.sample import Sampling
from services.joiner.spill import Clicked, Spill

_MINUTE_US = 60_000_000


@dataclass(frozen=True)
class JoinRules:
    """Everything joining decides by."""

    heads: Heads
    sampling: Sampling = field(default_factory=Sampling)
    open_impressions: int = 200_000
    """Impressions inside the click window; above, the oldest are closed early."""
    clicked_rows: int = 2_000_000
    """Clicked rows that wait for slower heads; above, those whose windows end first go."""


@dataclass
class _Open:
    user: int
    time_us: int
    deadline_us: int
    seq: int
    weight: float
    labels: dict[int, int] = field(default_factory=dict)


class Joiner:
    """Open impressions in memory by key, what they showed in the spill."""

    def __init__(self, rules: JoinRules, spill: Spill) -> None:
        self._rules = rules
        self._heads = rules.heads
        self._sampling = rules.sampling
        self._spill = spill
        self._open: dict[bytes, _Open] = {}
        self._due: list[tuple[int, int, bytes]] = []
        self._swept_us = 0
        self.clicked_rows = 0
        self.rows = Rows()
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_due_us(self) -> int:
        """Log time at which the next impression closes or the next sweep of the spill is due."""
        sweep = self._swept_us + _MINUTE_US
        return min(self._due[0][0], sweep) if self._due else sweep

    def advance(self, cause: Cause) -> None:
        """Close every impression whose click window has ended."""
        while self._due and self._due[0][0] <= cause.clock_us:
            self._close_next(cause)
        if cause.clock_us - self._swept_us >= _MINUTE_US:
            self._sweep(cause)

    def show(self, cause: Cause, payload: bytes, user: str, time_us: int, verdict: int) -> str | None:
        """Take an impression; its id, or None when it is open already. Raises InvalidInput when it cannot be read."""
        shown = _parse(payload)
        key = _key(shown.impression_id)
        if key in self._open:
            self.counts["repeated_impression"] += 1
            return None
        base = self._sampling.base_weight(shown, verdict)
        kept = self._sampling.kept(shown, self._sampling.considered(shown))
        if kept:
            weights = [self._sampling.weight(base, shown.items[index].shown) for index in kept]
            zeros = [0] * len(kept)
            self.rows.add(cause, INITIAL, time_us, shown.impression_id, user, kept, zeros, weights, payload)
        entry = _Open(user_key(user), time_us, time_us + self._heads.close_us, cause.seq, base)
        self._open[key] = entry
        heapq.heappush(self._due, (entry.deadline_us, entry.seq, key))
        self._spill.put(cause.seq, key, payload)
        return str(shown.impression_id)

    def settle(self, cause: Cause) -> None:
        """After an impression and what was held for it: close what is due at once or too much."""
        self.advance(cause)
        while len(self._open) > self._rules.open_impressions:
            before = len(self._open)
            self._close_next(cause)
            self.counts["closed_early"] += before - len(self._open)

    def act(self, cause: Cause, action: Action) -> str:
        """Take an action; what became of it: flipped, repeated, not_shown, not_sampled, after_window or unknown."""
        key = _key(action.impression_id)
        fired = self._heads.fired(action.kind, action.values)
        if not fired:
            return "below_condition"
        entry = self._open.get(key)
        if entry is not None:
            return self._flip_open(cause, action, key, entry, fired)
        row = self._spill.clicked(cause.seq, key, action.item, cause.clock_us)
        if row is not None:
            return self._flip_clicked(cause, action, key, row, fired)
        if action.issued_us + self._heads.close_us <= cause.clock_us:
            return "after_window"
        return "unknown"

    def forget(self, cause: Cause, user: str, before_us: int) -> None:
        """Drop what is held of a shopper and older than a time; no final labels follow, but a FORGET row for those
        who learned from the others."""
        self.rows.add(cause, FORGET, before_us, "", user, [], [], [], b"")
        hashed = user_key(user)
        gone = [k for k, entry in self._open.items() if entry.user == hashed and entry.time_us < before_us]
        for key in gone:
            del self._open[key]
            self._spill.drop(cause.seq, key)
        self.counts["forgotten"] += len(gone)
        self.clicked_rows -= self._spill.forget(cause.seq, hashed, before_us)

    def snapshot(self) -> Snapshot:
        """Keys uint8 [n, 16], numbers int64 [n, 4], weights [n], labels int64 [m, 3] as (entry, item, bits)."""
        entries = list(self._open.values())
        keys = np.frombuffer(b"".join(self._open), np.uint8).reshape(-1, 16)
        numbers = [(e.user, e.time_us, e.deadline_us, e.seq) for e in entries]
        labels = [(n, item, bits) for n, e in enumerate(entries) for item, bits in e.labels.items()]
        arrays: dict[str, Any] = {
            "open.keys": keys.copy(),
            "open.numbers": np.array(numbers, np.int64).reshape(-1, 4),
            "open.weights": np.array([e.weight for e in entries], np.float64),
            "open.labels": np.array(labels, np.int64).reshape(-1, 3),
        }
        return Snapshot(0, arrays, {"clicked_rows": self.clicked_rows, "swept_us": self._swept_us})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot` gave."""
        arrays = snapshot.arrays
        keys = [row.tobytes() for row in arrays["open.keys"]]
        columns = [*arrays["open.numbers"].T.tolist(), arrays["open.weights"].tolist()]
        entries = [
            _Open(user, time, deadline, seq, weight) for user, time, deadline, seq, weight in zip(*columns, strict=True)
        ]
        for place, item, bits in arrays["open.labels"].tolist():
            entries[place].labels[item] = bits
        self._open = dict(zip(keys, entries, strict=True))
        self._due = [(entry.deadline_us, entry.seq, key) for key, entry in self._open.items()]
        heapq.heapify(self._due)
        self.clicked_rows = int(snapshot.meta["clicked_rows"])
        self._swept_us = int(snapshot.meta["swept_us"])

    def _flip_open(self, cause: Cause, action: Action, key: bytes, entry: _Open, fired: int) -> str:
        shown = _parse(self._spill.payload(key))
        place = next((n for n, item in enumerate(shown.items) if item.shown and item.item_id == action.item), None)
        if place is None:
            return "not_shown"
        known = entry.labels.get(place, 0)
        outcome, new = self._new_bits(fired, known, cause.clock_us - entry.time_us)
        if not new:
            return outcome
        entry.labels[place] = known | new
        if not self._sampling.keeps(action.impression_id, action.item):
            return "not_sampled"
        weight = self._sampling.weight(entry.weight, True)
        self._emit_flip(cause, action, new, weight, only(shown, place))
        return "flipped"

    def _flip_clicked(self, cause: Cause, action: Action, key: bytes, row: Clicked, fired: int) -> str:
        outcome, new = self._new_bits(fired, row.labels, cause.clock_us - row.time_us)
        if new:
            self._spill.flip(cause.seq, key, action.item, new)
            self._emit_flip(cause, action, new, row.weight, row.payload)
        return outcome

    def _new_bits(self, fired: int, known: int, age_us: int) -> tuple[str, int]:
        in_time = fired & self._heads.open_at(age_us)
        if not in_time:
            return "after_window", 0
        new = in_time & ~known
        return ("flipped" if new else "repeated"), new

    def _emit_flip(self, cause: Cause, action: Action, bits: int, weight: float, payload: bytes) -> None:
        place = Cause(cause.offset, cause.index, cause.clock_us, action.received_us)
        identity = (action.impression_id, action.user)
        self.rows.add(place, FLIP, action.time_us, *identity, [0], [bits], [weight], payload)

    def _close_next(self, cause: Cause) -> None:
        _, seq, key = heapq.heappop(self._due)
        entry = self._open.get(key)
        if entry is None or entry.seq != seq:
            return  # forgotten
        payload = self._spill.payload(key)
        shown = _parse(payload)
        items = self._sampling.considered(shown)
        labels = [entry.labels.get(index, 0) for index in items]
        identity = (shown.impression_id, shown.user_id)
        self.rows.add(cause, CLOSED, entry.time_us, *identity, items, labels, [0.0] * len(items), payload)
        for place, bits in entry.labels.items():
            self._keep_clicked(cause, key, entry, shown, place, bits)
        del self._open[key]
        self._spill.drop(cause.seq, key)

    def _keep_clicked(self, cause: Cause, key: bytes, entry: _Open, shown: Impression, place: int, bits: int) -> None:
        item = shown.items[place].item_id
        waits = self._heads.open_at(cause.clock_us - entry.time_us) & ~bits
        if not waits or not self._sampling.keeps(shown.impression_id, item):
            return
        deadline_us = entry.time_us + self._heads.longest_us
        weight = self._sampling.weight(entry.weight, True)
        row = Clicked(entry.time_us, deadline_us, entry.user, bits, weight, only(shown, place))
        self._spill.keep(cause.seq, key, item, row)
        self.clicked_rows += 1

    def _sweep(self, cause: Cause) -> None:
        self._swept_us = cause.clock_us
        self.clicked_rows -= self._spill.expire(cause.seq, cause.clock_us)
        excess = self.clicked_rows - self._rules.clicked_rows
        if excess > 0:
            evicted = self._spill.evict(cause.seq, cause.clock_us, excess)
            self.counts["evicted"] += evicted
            self.clicked_rows -= evicted


def only(shown: Impression, place: int) -> bytes:
    """The impression with one item alone, serialized."""
    alone = Impression()
    alone.CopyFrom(shown)
    del alone.items[:]
    alone.items.append(shown.items[place])
    data: bytes = alone.SerializeToString()
    return data


def user_key(user: str) -> int:
    """64-bit hash of a shopper's id, signed as SQLite holds it."""
    return mmh3.hash64(user, signed=True)[0]


def _key(impression_id: str) -> bytes:
    return bytes.fromhex(impression_id)


def _parse(payload: bytes) -> Impression:
    try:
        shown: Impression = Impression.FromString(payload)
        if len(_key(shown.impression_id)) == 16:
            return shown
    except (DecodeError, ValueError) as error:
        raise InvalidInput("impression", "malformed", "is no freshrank.v1.Impression") from error
    raise InvalidInput("impression.impression_id", "malformed", "must be 32 hex digits")
