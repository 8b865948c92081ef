"""Moves rows from the trainer's deltas into the store, through the row gate, in order, and again after a loss."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.encode import Floats, RowLookup
from services.common.errors import CorruptState, InvalidInput, NotFound
from services.publisher import deltas
from services.publisher.audit import Audit
from services.publisher.book import Keeper, Lane, State, Undo, filled
from services.publisher.checks import Verdict
from services.publisher.compression.rows import CODECS
from services.publisher.deltas import Delta, DeltaName
from services.publisher.history import RowHistory
from services.publisher.rows import ChampionLoss, RowBounds, judge, unreadable
from services.publisher.scores import Difference
from services.publisher.table import Rows, SlotTables

logger = logging.getLogger(__name__)

_MOST = 20
"""Deltas of one step: after an outage the other work gets its turn between."""

Probe = Callable[[RowLookup, RowLookup], tuple[Difference, float] | None]
"""The champion's log-loss with the first rows minus with the second, and with the second; None = nothing to say."""


class RowStore(Protocol):
    """Where rows lie for gateways: `feast.FeastRows` and the item topic, or a small one in tests."""

    def open(self, lane: Lane) -> None:
        """Fence lower epochs off the lane's slot."""

    def lost(self, lane: Lane) -> bool:
        """True when the slot's epoch is gone: the store has lost its data."""
        ...

    def push(self, lane: Lane, items: Rows, users: Rows) -> bool:
        """Write rows; returns False when the slot's epoch was missing meanwhile. A row of zeros is taken away."""
        ...

    def restore(self, lane: Lane, items: Rows, users: Rows) -> None:
        """Write rows again to the part that loses data; the log of item rows has them."""


@dataclass(frozen=True)
class PumpPolicy:
    """How history is kept."""

    fold_deltas: int = 100
    """Deltas from which the base is moved forward."""
    codec: str = "float32"
    """How rows of items are stored (`compression.rows.CODECS`); the gate judges them as they will be read."""


class Pumped(Protocol):
    """Who is told."""

    def pushed(self, delta: Delta) -> None:
        """A delta is in the store."""

    def judged(self, verdict: Verdict) -> None:
        """A delta was judged."""


class Overlay:
    """Rows of a delta over the ones it would replace."""

    def __init__(self, delta: Delta, below: SlotTables) -> None:
        self._over = SlotTables(below.item.dim)
        self._over.item.apply(delta.items)
        self._over.user.apply(delta.users)
        self._below = below

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        return _merged(self._over.item.known(ids), self._over.items(ids), self._below.items(ids))

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers."""
        return _merged(self._over.user.known(ids), self._over.users(ids), self._below.users(ids))


class RowPump:
    """One lane's rows. `step` is called by one thread; look-ups may come from others."""

    def __init__(
        self,
        keeper: Keeper,
        history: RowHistory,
        folder: Path,
        store: RowStore,
        audit: Audit,
        told: Pumped,
        probe: Probe,
        bounds: RowBounds,
        policy: PumpPolicy,
    ) -> None:
        self._keeper, self._history, self._folder, self._store = keeper, history, folder, store
        self._audit, self._told, self._probe = audit, told, probe
        self._bounds, self._policy = bounds, policy
        self._loss = ChampionLoss(bounds)
        self._lock = threading.RLock()
        self._tables = history.restore(keeper.book.learning.epoch, keeper.book.pushed_seq)
        self._opened: Lane | None = None
        self._halted = False
        self.losing = False
        """True from a loss of the store's data until every row is there again."""

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items, as in the store."""
        with self._lock:
            return self._tables.items(ids)

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers, as in the store."""
        with self._lock:
            return self._tables.users(ids)

    def taken(self, ids: Sequence[str]) -> Rows:
        """Rows of items as the trainer made them; zero where there is none."""
        with self._lock:
            return self._tables.item.take(ids)

    def seen(self) -> Rows:
        """All rows of items as the trainer made them."""
        with self._lock:
            return self._tables.item.all()

    def step(self, now_us: int) -> int:
        """Push what is due; returns the deltas pushed. Raises TemporaryError when the store failed: call again."""
        self._open(now_us)
        if self._keeper.book.undo is not None:
            self._fill(now_us)
        if self.losing or self._store.lost(self._keeper.book.learning):
            self._push_all()
        return self._follow(now_us)

    def fold(self) -> None:
        """Move the base forward as far as no kept release needs what is before it."""
        book = self._keeper.book
        epoch = book.learning.epoch
        kept = book.of(State.CHAMPION, State.PREVIOUS, State.HELD, State.RETIRED)
        self._history.forget({epoch, *(entry.epoch for entry in kept)})
        needed = [entry.row_seq for entry in kept if entry.epoch == epoch]
        # Half of them stay: a candidate that is being judged now may go back to one of them later.
        upto = min([book.pushed_seq - self._policy.fold_deltas // 2, *needed])
        if book.undo is None and self._history.count(epoch, upto) >= self._policy.fold_deltas:
            self._history.fold(epoch, upto)

    def _open(self, now_us: int) -> None:
        lane = self._keeper.book.learning
        if self._opened == lane:
            return
        lost = self._store.lost(lane) and len(self._tables.item) + len(self._tables.user) > 0
        if lost and self._keeper.book.undo is None:
            self._push_all()
        self._store.open(lane)
        self._loss.restart()
        self._opened = lane

    def _fill(self, now_us: int) -> None:
        """A new lane after a rollback: its slot gets the target's rows. Older epochs' rows in it count as absent."""
        book = self._keeper.book
        undo, lane = book.undo, book.learning
        assert undo is not None
        tables = self._as_of(undo).as_of(0)
        self._history.save(lane.epoch, 0, tables)
        self._store.push(lane, tables.item.all(), tables.user.all())
        self._store.open(lane)
        with self._lock:
            self._tables = tables
        self._keeper.change(lambda old: filled(old, tables.learned_up_to_us))
        self._audit.add(now_us, "slot_filled", undo.target, slot=lane.slot, epoch=lane.epoch, rows=len(tables.item))

    def _as_of(self, undo: Undo) -> SlotTables:
        try:
            return self._history.restore(undo.epoch, undo.row_seq)
        except (NotFound, CorruptState) as error:
            logger.warning("the target's rows are gone: filling with the newest", extra={"error": str(error)})
            return self._tables

    def _follow(self, now_us: int) -> int:
        pushed = 0
        stopped = bool(self._keeper.book.stopped)
        if self._halted and not stopped:
            self._loss.restart()  # a person looked at the figures and let the pushes go on
        self._halted = stopped
        for name in deltas.waiting(self._folder, self._position())[:_MOST]:
            book = self._keeper.book
            if book.switches.rows or book.stopped or name.epoch != book.learning.epoch:
                break
            delta = self._judged(name, now_us)
            if delta is None:
                break
            self._write(book.learning, delta)
            pushed += 1
        return pushed

    def _position(self) -> DeltaName:
        return DeltaName(self._keeper.book.learning.epoch, self._keeper.book.pushed_seq)

    def _judged(self, name: DeltaName, now_us: int) -> Delta | None:
        delta = None
        try:
            delta = self._coded(deltas.read(self._folder, name))
            verdict = self._verdict(delta)
        except (CorruptState, InvalidInput) as error:
            verdict = unreadable(str(error))
        self._told.judged(verdict)
        if verdict.passed:
            return delta
        reason = f"rows refused at {name.epoch}-{name.seq}: {verdict.reason}"
        self._audit.add(now_us, "rows_stopped", seq=name.seq, epoch=name.epoch, reason=reason, checks=verdict.to_json())
        aside = self._folder / "refused"
        aside.mkdir(exist_ok=True)
        self._keeper.change(lambda book: replace(book, stopped=reason))
        (self._folder / str(name)).replace(aside / str(name))
        return None

    def _coded(self, delta: Delta) -> Delta:
        rows = CODECS[self._policy.codec](delta.items.rows)
        return replace(delta, items=replace(delta.items, rows=rows))

    def _verdict(self, delta: Delta) -> Verdict:
        seq = self._keeper.book.pushed_seq
        found = judge(delta, self._tables, seq, self._bounds)
        if not found.passed:
            return found
        loss = self._loss.add(delta.champion_log_loss, delta.champion_rows)
        probed = self._probe(Overlay(delta, self._tables), self._tables) if loss.passed else None
        return Verdict((*judge(delta, self._tables, seq, self._bounds, probed).checks, loss))

    def _write(self, lane: Lane, delta: Delta) -> None:
        whole = self._store.push(lane, delta.items, delta.users)
        with self._lock:
            self._tables.item.apply(delta.items)
            self._tables.user.apply(delta.users)
        self._keeper.change(
            lambda book: replace(book, pushed_seq=delta.name.seq, pushed_time_us=delta.learned_up_to_us)
        )
        self._told.pushed(delta)
        if not whole:
            self._push_all()

    def _push_all(self) -> None:
        self.losing = True
        lane = self._keeper.book.learning
        logger.warning("the store lost its rows: pushing all again", extra={"slot": lane.slot})
        self._store.restore(lane, self._tables.item.all(), self._tables.user.all())
        self._store.open(lane)  # last: until it is there everybody can see that rows are missing
        self.losing = False


def _merged(
    first: NDArray[np.bool_], over: tuple[Floats, Floats], below: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    rows, masks = below
    rows[first], masks[first] = over[0][first], over[1][first]
    return rows, masks
