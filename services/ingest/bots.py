"""Who is a program: too many events a minute, or too many in a row faster than a person can look.

Judged in log order, once; the verdict stays in the row. Purchases and ratings are not judged: shops import
them, and one order of a hundred lines has one time.
"""

from dataclasses import dataclass

import mmh3
import numpy as np
from freshrank.v1.events_pb2 import EventKind

from services.common.stage import Snapshot

_MINUTE_US = 60_000_000
JUDGED = frozenset(EventKind.values()) - {EventKind.EVENT_KIND_PURCHASE, EventKind.EVENT_KIND_RATE}


@dataclass(frozen=True)
class BotRules:
    """When a shopper counts as a bot, and for how long."""

    per_minute: int = 120
    """Events in one minute of log time; people at their fastest stay below one a second."""
    dwell_us: int = 200_000
    """Two events closer than this are not two looks."""
    dwell_run: int = 20
    """So many such gaps in a row are a program; logs with times in whole seconds make short runs."""
    hold_us: int = 600_000_000
    """A verdict stands so long after the last breach."""
    shoppers: int = 200_000
    """Shoppers watched at once; the longest unseen go first."""


class _Shopper:
    __slots__ = ("count", "last_us", "minute", "run", "seen_us", "until_us")

    def __init__(self) -> None:
        self.minute = self.count = self.run = self.last_us = self.seen_us = self.until_us = 0


_FIELDS = tuple(_Shopper.__slots__)
KEY, NUMBERS = "bots.key", tuple(f"bots.{name}" for name in _FIELDS)
"""Arrays of a snapshot: one entry a shopper."""


class Bots:
    """Verdicts per shopper; keyed by a 64-bit hash, so that a snapshot names nobody."""

    def __init__(self, rules: BotRules) -> None:
        self._rules = rules
        self._shoppers: dict[int, _Shopper] = {}
        self._swept_us = 0

    def __len__(self) -> int:
        return len(self._shoppers)

    def judge(self, user: str, kind: int, time_us: int, clock_us: int) -> bool:
        """Count an event and say whether its shopper is a bot now."""
        key = mmh3.hash64(user, signed=False)[0]
        shopper = self._shoppers.get(key)
        if shopper is None:
            self._sweep(clock_us)
            shopper = self._shoppers[key] = _Shopper()
        shopper.seen_us = clock_us
        if kind in JUDGED:
            self._count(shopper, time_us, clock_us)
        return clock_us < shopper.until_us

    def is_bot(self, user: str, clock_us: int) -> bool:
        """The verdict that stands, without counting."""
        shopper = self._shoppers.get(mmh3.hash64(user, signed=False)[0])
        return shopper is not None and clock_us < shopper.until_us

    def forget(self, user: str) -> None:
        """Drop what is held of a shopper."""
        self._shoppers.pop(mmh3.hash64(user, signed=False)[0], None)

    def snapshot(self) -> Snapshot:
        """Keys uint64 [n] and one int64 array per number, in the order of arrival."""
        shoppers = self._shoppers.values()
        arrays = {"bots.key": np.fromiter(self._shoppers, np.uint64, len(shoppers))}
        for name in _FIELDS:
            arrays[f"bots.{name}"] = np.array([getattr(s, name) for s in shoppers], np.int64)
        return Snapshot(0, arrays, {"bots.swept_us": self._swept_us})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot` gave."""
        columns = {name: snapshot.arrays[f"bots.{name}"].tolist() for name in _FIELDS}
        self._shoppers = {}
        for place, key in enumerate(snapshot.arrays["bots.key"].tolist()):
            shopper = self._shoppers[key] = _Shopper()
            for name in _FIELDS:
                setattr(shopper, name, columns[name][place])
        self._swept_us = int(snapshot.meta["bots.swept_us"])

    def _count(self, shopper: _Shopper, time_us: int, clock_us: int) -> None:
        minute = clock_us // _MINUTE_US
        if minute != shopper.minute:
            shopper.minute, shopper.count = minute, 0
        shopper.count += 1
        quick = 0 <= time_us - shopper.last_us < self._rules.dwell_us
        shopper.run = shopper.run + 1 if quick else 0
        shopper.last_us = time_us
        if shopper.count > self._rules.per_minute or shopper.run >= self._rules.dwell_run:
            shopper.until_us = clock_us + self._rules.hold_us

    def _sweep(self, clock_us: int) -> None:
        """Once a minute, or when full: drop shoppers unseen for longer than a verdict stands."""
        full = len(self._shoppers) >= self._rules.shoppers
        if not full and clock_us - self._swept_us < _MINUTE_US:
            return
        self._swept_us = clock_us
        oldest = clock_us - self._rules.hold_us
        kept = {key: s for key, s in self._shoppers.items() if s.seen_us >= oldest or s.until_us > clock_us}
        if len(kept) >= self._rules.shoppers:
            newest = sorted(kept.items(), key=lambda entry: entry[1].seen_us)[len(kept) // 2 :]
            kept = dict(newest)
        self._shoppers = kept
