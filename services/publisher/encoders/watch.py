"""The watch over a new encoder: do shoppers whose searches it serves find as often as those who kept the one before?

A share of shoppers, by hash of their id, keeps the encoder before for a while. A search is found when something in its
answer is clicked. Each shopper counts once, by the first search since the switch: searches of one shopper resemble each
other, and the intervals are of independent values. Both means get confidence sequences (`canary.py`), so it may be
looked at all the time. Who belongs where is decided by the id, whichever encoder answered in the end.
"""

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from freshrank.v1.events_pb2 import Impression

from services.common.ids import key_of
from services.publisher.canary import Sequence
from services.publisher.checks import Check, Verdict, at_most, verdict
from services.publisher.replay import Closed
from services.text.names import keeps_before

_WAITING = 20_000
_MOST = 500_000
"""Shoppers counted of one encoder; those after them are not."""


@dataclass(frozen=True)
class SearchBounds:
    """When an encoder is taken back, and how long it is watched."""

    share: float = 0.1
    """Of shoppers who keep the one before; 0 = no watch."""
    watch_us: int = 3_600_000_000
    error: float = 0.02
    """Probability of a false stop over its whole life."""
    least: int = 50
    """Shoppers on either side before they are compared."""
    tuned_for: int = 1_000
    """Shoppers at which the intervals are narrowest."""
    fall: float = 0.0
    """Of the share of searches with a click, that is tolerated."""


class SearchWatch:
    """One watch at a time. `labelled` comes from another thread."""

    def __init__(self, bounds: SearchBounds) -> None:
        self.bounds = bounds
        self._lock = threading.Lock()
        self._labelled: deque[tuple[str, int, bool]] = deque(maxlen=_WAITING)
        self._watched = ("", 0)
        self._start()

    def labelled(self, closed: Closed) -> None:
        """Keep the outcome of a search for the next step."""
        if counts(closed.impression):
            found = any(bits != 0 for bits in closed.labels)
            with self._lock:
                self._labelled.append((closed.impression.user_id, closed.impression.time_us, found))

    def step(self, encoder: str, since_us: int) -> Verdict:
        """What is known about an encoder that serves since then. Too little is no breach."""
        if self._watched != (encoder, since_us):
            self._watched = (encoder, since_us)
            self._start()
        with self._lock:
            waiting = list(self._labelled)
            self._labelled.clear()
        for user, time_us, found in waiting:
            key = key_of(user)
            if time_us < since_us or key in self._counted or len(self._counted) >= _MOST:
                continue
            self._counted.add(key)
            side = keeps_before(user, self.bounds.share)
            self._found[side].add(np.array([float(found)]))
        return verdict([self._check()])

    def figures(self) -> dict[str, float]:
        """Shoppers, and their share with a click, of both encoders."""
        now, before = self._found[False], self._found[True]
        return {"shoppers": now.count, "found": now.mean, "shoppers_before": before.count, "found_before": before.mean}

    def _start(self) -> None:
        self._counted: set[int] = set()
        self._found = {False: Sequence(), True: Sequence()}

    def _check(self) -> Check:
        now, before, b = self._found[False], self._found[True], self.bounds
        if min(now.count, before.count) < b.least:
            few = min(now.count, before.count)
            return at_most("found", 0.0, b.fall, f"not judged: {few} shoppers on one side, {b.least} are needed")
        sure = before.mean - now.mean - sum(one.floored(b.error / 2, b.tuned_for) for one in (now, before))
        detail = f"share of searches with a click {now.mean:.3f}, before {before.mean:.3f}"
        return at_most("found", sure, b.fall, f"sure fall; {detail}")


def counts(impression: Impression) -> bool:
    """Whether an impression is the first page of an answer to a search."""
    return bool(impression.query and impression.closed_loop and not impression.page)
