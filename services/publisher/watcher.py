"""Feeds the watch: labelled impressions scored by champion and previous release, answers, and Triton's own counts."""

import threading
from collections import deque
from collections.abc import Callable

import numpy as np
from freshrank.v1.events_pb2 import DEGRADATION_LAST_RELEASE, Impression

from services.common.arms import MAIN
from services.common.encode import RowLookup
from services.common.errors import FreshrankError
from services.common.ids import share_of
from services.publisher import scores
from services.publisher.book import Book
from services.publisher.canary import Paired, Watch, WatchBounds
from services.publisher.checks import Verdict
from services.publisher.fleet import Fleet
from services.publisher.pod import ServedStats
from services.publisher.replay import Closed, Replay, Scored
from services.publisher.scores import Floats
from services.publisher.shelf import Opened, Shelf

_WAITING = 20_000


class Watcher:
    """One watch at a time: of the release that serves now. `served` and `labelled` may come from another thread."""

    def __init__(
        self,
        shelf: Shelf,
        fleet: Fleet,
        rows: RowLookup,
        watch_share: float,
        bounds: Callable[[], WatchBounds],
        arm: str = MAIN,
    ) -> None:
        """`arm`: whose shoppers' answers are counted; labels of all are, for both releases score them anew."""
        self._arm = arm
        self._shelf, self._fleet, self._rows = shelf, fleet, rows
        self._share, self._bounds = watch_share, bounds
        self._lock = threading.Lock()
        self._labelled: deque[Closed] = deque(maxlen=_WAITING)
        self._served: deque[tuple[str, bool]] = deque(maxlen=_WAITING)
        self._watch: Watch | None = None
        self._since_us = 0
        self._start: dict[str, ServedStats] = {}

    def served(self, impression: Impression) -> None:
        """Count an answer for the release that its shopper belongs to, whichever one answered in the end."""
        if (impression.arm or self._arm) != self._arm:
            return
        degraded = impression.degradation >= DEGRADATION_LAST_RELEASE
        with self._lock:
            if impression.time_us >= self._since_us:
                self._served.append((impression.user_id, degraded))

    def labelled(self, closed: Closed) -> None:
        """Keep a labelled impression for the next step."""
        with self._lock:
            self._labelled.append(closed)

    def healed(self, release: str) -> None:
        """A release had to be loaded anew on a server."""
        if self._watch is not None and release == self._watch.champion:
            self._watch.healed()
            self._start = {}

    def step(self, book: Book, healthy: bool) -> Verdict | None:
        """Look at what has come; None while there is nothing to compare the champion with.

        A failed check is a breach. Scoring failures of a release that is being collected are left for the next step.
        """
        watch = self._follow(book)
        if watch is None:
            return None
        champion, previous = self._shelf.get(watch.champion), self._shelf.get(watch.previous)
        with self._lock:
            labelled, served = list(self._labelled), list(self._served)
            self._labelled.clear()
            self._served.clear()
        newest = max(champion.manifest.learned_up_to_us, previous.manifest.learned_up_to_us)
        watch.paired(self._scored([c for c in labelled if c.impression.time_us > newest], champion, previous))
        for user, degraded in served:
            watch.served(share_of(user, "watch") >= self._share, degraded)
        watch.inferences(self._counted(watch.champion), self._counted(watch.previous), healthy)
        return watch.verdict()

    def figures(self) -> dict[str, float]:
        """Figures of the watch; empty while there is none."""
        return self._watch.figures() if self._watch is not None else {}

    def _follow(self, book: Book) -> Watch | None:
        if not book.champion or not book.previous or book.undo is not None:
            self._watch = None
            return None
        current = self._watch
        if current is None or (current.champion, current.previous) != (book.champion, book.previous):
            self._watch = current = Watch(book.champion, book.previous, self._bounds())
            self._start = {}
            with self._lock:
                self._since_us = book.routed_us
                self._served.clear()
        return current

    def _scored(self, labelled: list[Closed], champion: Opened, previous: Opened) -> list[Paired]:
        if not labelled:
            return []
        kept = Replay(len(labelled))
        for closed in labelled:
            kept.add(closed)
        snapshot = kept.snapshot()
        if champion.manifest.spec == previous.manifest.spec:
            one, other = snapshot.score([champion.model, previous.model], champion.manifest.spec, self._rows)
        else:
            one = snapshot.score([champion.model], champion.manifest.spec, self._rows)[0]
            other = snapshot.score([previous.model], previous.manifest.spec, self._rows)[0]
        return pairs(one, other)

    def _counted(self, release: str) -> ServedStats:
        """Counts since this release began to be watched."""
        try:
            found = self._fleet.stats(release)
        except FreshrankError:
            return ServedStats()
        first = self._start.setdefault(release, found)
        if found.answered < first.answered:  # a server was restarted and counts from nothing
            self._start[release] = first = found
        return found - first


def pairs(one: Scored, other: Scored) -> list[Paired]:
    """Sums per impression of what two releases say about the same candidates."""
    labels = one.labels[:, 0]
    losses = [scores.log_losses(labels, scored.scores[:, 0]) for scored in (one, other)]
    _, group = np.unique(one.groups, return_inverse=True)
    columns: list[Floats] = [*losses, one.scores[:, 0], other.scores[:, 0], labels, np.ones(len(labels))]
    sums = [np.bincount(group, column).tolist() for column in columns]
    return [Paired((a, b), (p, q), clicks, int(count)) for a, b, p, q, clicks, count in zip(*sums, strict=True)]
