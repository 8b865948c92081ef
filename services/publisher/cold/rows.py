"""Rows of items on their way to gateways: those that little is known of are drawn towards what their texts say.

With n the times that the trainer has seen an item, and k what the text is worth in the same unit,

    row served = (k · row of the text + n · own row) / (k + n),    its own row, bit for bit, from `enough` on,

which is the row of the text alone before the trainer has made one. So gateways read one row, as ever.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.publisher.book import Lane
from services.publisher.cold.ridge import Map
from services.publisher.cold.texts import Texts
from services.publisher.pump import RowStore
from services.publisher.table import OFTEN, Rows, RowTable

Floats = NDArray[np.float32]

CHUNK = 500
"""Rows that one step sends at most: deltas wait for no more."""
STILL = 0.05
"""Share of its length by which a row has to have moved to be sent again after another fit."""


@dataclass(frozen=True)
class Blend:
    """How own rows and texts are mixed."""

    weight: float = 20.0
    """k: times seen at which both weigh the same."""
    enough: int = 100
    """Times seen from which the own row is used as it is."""

    def rows(self, own: Rows, texts: Floats) -> Floats:
        """Rows [n, dim] of items whose texts say `texts` [n, dim].

        >>> own = Rows.of(["a", "b"], np.ones((2, 1), np.float32), 1, 1, np.array([5, 200], np.uint8))
        >>> Blend(weight=5).rows(own, np.zeros((2, 1), np.float32)).tolist()
        [[0.5], [1.0]]
        """
        n = np.full(len(own), OFTEN, np.uint8) if own.seen is None else own.seen
        seen = np.where(own.present, n, 0).astype(np.float32)[:, None]
        k = np.float32(self.weight)
        return np.where(seen >= self.enough, own.rows, (k * texts + seen * own.rows) / (k + seen))

    def little(self, own: Rows) -> NDArray[np.bool_]:
        """[n] where the own row is not used as it is."""
        return np.zeros(len(own), np.bool_) if own.seen is None else (own.seen < self.enough) | ~own.present


class OwnRows(Protocol):
    """Rows as the trainer made them."""

    def taken(self, ids: Sequence[str]) -> Rows:
        """Rows of some items; zero where there is none."""
        ...


@dataclass(frozen=True)
class InForce:
    """A map with the vectors it reads; `map` None: texts say nothing that helps."""

    texts: Texts
    map: Map | None


class ColdRows:
    """A `RowStore` over another one. `push` and `send` are called by one thread, the rest by any."""

    def __init__(self, store: RowStore, announce: Callable[[Lane, Rows], None], blend: Blend, dim: int) -> None:
        """`announce` sends item rows to those who keep tables; it returns when they are acknowledged."""
        self._store, self._announce, self._blend = store, announce, blend
        self._lock = threading.Lock()
        self._now: InForce | None = None
        self._due: dict[str, None] = {}
        self._sent = RowTable(dim)
        """What was sent of items whose own row is not used as it is; zero where it is again."""
        self.own: OwnRows | None = None
        """The pump's; set once."""

    def use(self, now: InForce | None, due: Iterable[str]) -> None:
        """From now on rows are made with this; those of the items that are due are sent by and by."""
        with self._lock:
            if self._now is None or now is None or now.texts is not self._now.texts:
                self._sent, self._due = RowTable(self._sent.dim), {}
            self._now = now
            self._due |= dict.fromkeys([*due, *self._sent.ids()])

    def moved(self, items: Iterable[str]) -> None:
        """Vectors of these items have changed."""
        with self._lock:
            if self._now is not None and self._now.map is not None:
                self._due |= dict.fromkeys(items)

    @property
    def counts(self) -> dict[str, int]:
        """Items by what their rows on the topic are made of, and those that wait to be sent."""
        with self._lock:
            sent = self._sent.all()
            own = int(np.count_nonzero(sent.present & (sent.times_us > 0)))
            return {"text": int(np.count_nonzero(sent.present)) - own, "blended": own, "due": len(self._due)}

    def open(self, lane: Lane) -> None:
        """See `RowStore`."""
        self._store.open(lane)

    def lost(self, lane: Lane) -> bool:
        """See `RowStore`."""
        return self._store.lost(lane)

    def push(self, lane: Lane, items: Rows, users: Rows) -> bool:
        """See `RowStore`; an item whose row is taken away is due a row of its text."""
        with self._lock:
            made, mixed = self._mixed(lane, items, items.present)
            whole = self._store.push(lane, made, users)
            self._remember(made, mixed)
            if self._now is not None:
                self._due |= dict.fromkeys(items.pick(np.flatnonzero(~items.present)).ids)
        return whole

    def restore(self, lane: Lane, items: Rows, users: Rows) -> None:
        """See `RowStore`."""
        with self._lock:
            made, _ = self._mixed(lane, items, items.present)
        self._store.restore(lane, made, users)

    def send(self, lane: Lane) -> int:
        """Send some of the rows that are due; returns how many went. Raises TemporaryError: they stay due."""
        with self._lock:
            now, ids = self._now, list(islice(self._due, CHUNK))
            if now is None or now.texts.lanes.rows != lane or not ids or self.own is None:
                return 0
            own = self.own.taken(ids)
            rows, mixed = self._mixed(lane, own, np.ones(len(own), np.bool_))
            wanted = np.flatnonzero(self._wanted(now, own, rows, mixed))
            if len(wanted):
                self._announce(lane, rows.pick(wanted))
                self._remember(rows.pick(wanted), mixed[wanted])
            for item in ids:
                del self._due[item]
            return len(wanted)

    def _mixed(self, lane: Lane, own: Rows, among: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows as they are served, the very same object when none differs; and which were mixed, of those `among`."""
        now, mixed = self._now, np.zeros(len(own), np.bool_)
        if now is None or now.map is None or now.texts.lanes.rows != lane:
            return own, mixed
        little = np.flatnonzero(self._blend.little(own) & among)
        known, vectors = now.texts.take([own.ids[place] for place in little.tolist()])
        at = little[known]
        if not len(at):
            return own, mixed
        mixed[at] = True
        rows = own.rows.copy()
        rows[at] = self._blend.rows(own.pick(at), now.map.rows(vectors))
        return replace(own, rows=rows), mixed

    def _wanted(self, now: InForce, own: Rows, rows: Rows, mixed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows [n] are not on the topic as they should be, as far as that is known."""
        before, _ = self._sent.lookup(own.ids)
        there = before.any(axis=1) | np.array([item in now.texts.content for item in own.ids], np.bool_)
        length = np.linalg.norm(rows.rows, axis=1)
        moved = np.linalg.norm(rows.rows - before, axis=1) > np.float32(STILL) * length
        # Own rows that nobody has mixed lie there as they are; where there is none, a text's may have been left.
        return np.where(mixed, moved, self._blend.little(own) & (own.present | there))

    def _remember(self, rows: Rows, mixed: NDArray[np.bool_]) -> None:
        """Keep what was sent of items that were mixed; of the others, that they are not any more."""
        kept = np.flatnonzero(mixed | self._sent.known(rows.ids))
        if len(kept):
            sent = np.where(mixed[:, None], rows.rows, np.float32(0))
            self._sent.apply(replace(rows, rows=sent).pick(kept))
