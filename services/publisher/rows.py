"""The gate of row deltas: nothing reaches the store that is not finite, bounded, and no worse for the champion.

After a refusal the pushes stop: a delta holds only what changed since the one before, so skipping one and taking
the next would leave rows that no state of the trainer ever had. The last good rows stay until the trainer starts
a new lineage or a person resumes.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from services.publisher.checks import Check, Verdict, at_least, at_most, holds, verdict
from services.publisher.deltas import Delta
from services.publisher.scores import Difference
from services.publisher.table import Rows, RowTable, SlotTables


class RowReason(StrEnum):
    """Why a delta is refused; the names of the checks."""

    READABLE = "readable"
    ORDER = "order"
    SHAPE = "shape"
    FINITE = "finite"
    NORM = "norm"
    CHANGE = "change"
    SHARE = "share"
    CHAMPION_LOSS = "champion_loss"
    PROBE = "probe"


MEASURED = frozenset({RowReason.NORM, RowReason.CHANGE, RowReason.SHARE, RowReason.CHAMPION_LOSS, RowReason.PROBE})
"""Checks of a figure against a bound that it comes near before it breaks it."""


@dataclass(frozen=True)
class RowBounds:
    """What a delta may do."""

    norm: float = 16.0
    """Length of a row."""
    change: float = 8.0
    """Length of the difference between a row and the one before it."""
    share: float = 0.5
    """Share of the known rows that one delta may change."""
    share_from: int = 50_000
    """Known rows from which the share counts: a small table changes whole."""
    loss_ratio: float = 2.0
    """How far the champion's recent log-loss may exceed its baseline, as a share of it."""
    loss_sigmas: float = 4.0
    """Standard errors on top of it: recent figures are few."""
    loss_rows: int = 10_000
    """Scored candidates that the recent figure is over; fewer are not judged."""
    baseline_rows: int = 200_000
    """Scored candidates that the baseline looks back over."""
    probe_ratio: float = 0.05
    """How far a delta may raise the champion's log-loss on kept impressions, as a share of it."""
    probe_sigmas: float = 6.0


@dataclass
class _Average:
    """An exponential average over counted values: `span` = how many of them it looks back over."""

    span: float
    mean: float = 0.0
    square: float = 0.0
    count: float = 0.0

    def add(self, value: float, count: int) -> None:
        keep = 0.5 ** (count / self.span)
        total = self.count * keep + count
        gap = value - self.mean
        self.mean += gap * count / total
        # Of a mean over `count` values only count times its squared gap tells about single values.
        self.square = (self.square * self.count * keep + gap * (value - self.mean) * count * count) / total
        self.count = total


class ChampionLoss:
    """Runs the champion's recent log-loss on current rows against a baseline of what came before.

    >>> watch = ChampionLoss(RowBounds(loss_rows=100, baseline_rows=1000))
    >>> [watch.add(0.5, 50).passed for _ in range(10)][-1], watch.add(5.0, 100).passed
    (True, False)
    """

    def __init__(self, bounds: RowBounds) -> None:
        self._bounds = bounds
        self.restart()

    def restart(self) -> None:
        """Forget everything: another lane, other rows."""
        self._baseline = _Average(self._bounds.baseline_rows)
        self._recent: deque[tuple[float, int]] = deque()
        self._count = 0

    def add(self, loss: float, count: int) -> Check:
        """Take one delta's figure in and judge; the baseline learns only of figures that are no longer recent."""
        if count <= 0:
            return at_most(RowReason.CHAMPION_LOSS, 0.0, float("inf"), "no candidate appeared")
        if not math.isfinite(loss):
            return at_most(RowReason.CHAMPION_LOSS, float("nan"), self._bound(), f"of {count} candidates")
        self._recent.append((loss, count))
        self._count += count
        while self._count - self._recent[0][1] >= self._bounds.loss_rows:
            old, number = self._recent.popleft()
            self._baseline.add(old, number)
            self._count -= number
        enough = min(self._baseline.count, self._count) >= self._bounds.loss_rows
        mean = sum(value * number for value, number in self._recent) / self._count
        bound = self._bound() if enough else float("inf")
        return at_most(RowReason.CHAMPION_LOSS, mean, bound, f"over the last {self._count}")

    def _bound(self) -> float:
        noise = math.sqrt(max(0.0, self._baseline.square) / max(1, self._count))
        return self._baseline.mean * (1 + self._bounds.loss_ratio) + self._bounds.loss_sigmas * noise


def judge(
    delta: Delta, tables: SlotTables, pushed_seq: int, bounds: RowBounds, probed: tuple[Difference, float] | None = None
) -> Verdict:
    """Judge the rows themselves against the ones they replace.

    `probed`: the champion's log-loss on kept impressions with the delta's rows minus without, and the loss without;
    None when there is no champion or nothing kept.
    """
    checks = [at_least(RowReason.ORDER, delta.name.seq, pushed_seq + 1)]
    for kind, rows, table in (("item", delta.items, tables.item), ("user", delta.users, tables.user)):
        checks += _rows(kind, rows, table, bounds)
    if probed is not None:
        difference, loss = probed
        allowed = bounds.probe_ratio * loss + bounds.probe_sigmas * difference.error
        checks.append(at_most(RowReason.PROBE, difference.mean, allowed, "rise of the champion's log-loss"))
    return verdict(checks)


def unreadable(detail: str) -> Verdict:
    """The verdict on a file that holds no delta."""
    return verdict([holds(RowReason.READABLE, False, detail)])


def _rows(kind: str, rows: Rows, table: RowTable, bounds: RowBounds) -> list[Check]:
    if not len(rows):
        return []
    if rows.rows.shape[1] != table.dim:
        return [holds(RowReason.SHAPE, False, f"{kind} rows have {rows.rows.shape[1]} values, not {table.dim}")]
    bad = int(np.count_nonzero(~np.isfinite(rows.rows).all(axis=1)))
    finite = at_most(RowReason.FINITE, bad, 0, f"{kind} rows that are not finite" if bad else "")
    if bad:
        return [finite]
    known = table.known(rows.ids)
    kept = known & rows.rows.any(axis=1)  # a row of zeros is taken away, however long it was
    change = np.linalg.norm(rows.rows - table.lookup(rows.ids)[0], axis=1)[kept]
    checks = [finite, at_most(RowReason.NORM, np.linalg.norm(rows.rows, axis=1).max(), bounds.norm, kind)]
    checks.append(at_most(RowReason.CHANGE, change.max() if len(change) else 0.0, bounds.change, kind))
    if len(table) >= bounds.share_from:
        moved = int(np.count_nonzero(change > 0))
        checks.append(at_most(RowReason.SHARE, moved / len(table), bounds.share, kind))
    return checks
