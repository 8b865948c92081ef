"""The referee: takes impressions with their final labels, closes periods, and ends trials.

Commands come from one thread, labels from another.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from freshrank.v1.models_pb2 import ArmSplit, PromoteArmRequest, StartTrialRequest, StopTrialRequest

from services.common.arms import Split
from services.common.errors import Conflict, NotFound
from services.publisher.arms import book as books
from services.publisher.arms import guards
from services.publisher.arms.book import ArmsBook, Counted, Standing
from services.publisher.arms.comparison import Comparison
from services.publisher.arms.guards import GuardBounds, Tally
from services.publisher.arms.periods import Periods
from services.publisher.arms.terms import Terms, terms_of
from services.publisher.audit import Audit
from services.publisher.checks import Check
from services.publisher.files import Disk

logger = logging.getLogger(__name__)


class Referee:
    """One trial at a time."""

    def __init__(
        self,
        path: Path,
        audit: Audit,
        publish: Callable[[ArmSplit], None],
        champions: Callable[[], Mapping[str, str]],
        bounds: GuardBounds | None = None,
        disk: Disk | None = None,
    ) -> None:
        """`champions`: release that serves, by arm. Raises CorruptState when the file cannot be read."""
        self._path, self._audit, self._publish, self._champions = path, audit, publish, champions
        self._bounds, self._disk = bounds or GuardBounds(), disk or Disk()
        self._lock = threading.RLock()
        self._published: Split | None = None
        self.book = books.read(path)
        self.periods = self._periods()

    def start(self, asked: StartTrialRequest, now_us: int) -> None:
        """Begin a trial. Raises Conflict while one runs, InvalidInput, or NotFound for an arm that serves nothing."""
        with self._lock:
            if self.book.running:
                raise Conflict(f"trial {self.book.split.trial} runs; stop it first")
            incumbent = self.book.split.incumbent
            terms = terms_of(asked, incumbent, f"t{now_us}", now_us)
            for arm in (incumbent, *terms.challengers):
                self._serves(arm)
            chance = {arm: terms.split.chance(arm) for arm in (incumbent, *terms.challengers)}
            comparisons = {
                arm: Comparison(arm, incumbent, chance[arm] / (chance[arm] + chance[incumbent]))
                for arm in terms.challengers
            }
            standings = tuple(Standing(arm, terms.share) for arm in terms.challengers)
            counted = Counted(comparisons, closed=terms.split.period(now_us) - 1)
            self._change(ArmsBook(terms.split, terms, 0, standings, counted))
            self.periods = self._periods()
            self._note(now_us, "trial_started", challengers=list(terms.challengers), actor=asked.actor)
            self.sync(now_us)

    def stop(self, asked: StopTrialRequest, now_us: int) -> None:
        """End the trial without a winner. Raises Conflict when none runs."""
        with self._lock:
            if not self.book.running:
                raise Conflict("no trial runs")
            reason = asked.reason or "stopped by a person"
            self._end(self.book.split.incumbent, books.STOPPED, reason, now_us, asked.actor)

    def promote(self, asked: PromoteArmRequest, now_us: int) -> None:
        """Make an arm the incumbent because a person says so; a trial that runs ends. Raises NotFound, Conflict."""
        with self._lock:
            if asked.arm == self.book.split.incumbent:
                raise Conflict(f"{asked.arm} is the incumbent")
            self._serves(asked.arm)
            self._end(asked.arm, books.STOPPED, asked.reason or "an arm was promoted by a person", now_us, asked.actor)

    def sync(self, now_us: int) -> None:
        """Tell gateways when they do not know yet. Raises TemporaryError: call again."""
        with self._lock:
            if self.book.split != self._published:
                message = books.message_of(self.book.split)
                message.updated_us = now_us
                self._publish(message)
                self._published = self.book.split

    def found(self, positions: Mapping[int, int]) -> None:
        """Where the trial's labels begin; once, before the first is taken."""
        with self._lock:
            self.book.counted.positions = dict(positions)
            self._change(self.book)

    def apply(self, partition: int, offset: int, value: bytes | None, key: bytes | None) -> None:
        """Take one message of examples in."""
        with self._lock:
            self.periods.apply(partition, offset, value, key)

    def step(self, now_us: int, frozen: bool, positions: Mapping[int, int]) -> None:
        """Close what is over, and decide. `frozen`: nothing is promoted now; `positions`: next offsets of examples."""
        with self._lock:
            if not self.book.running:
                return
            closed = self.periods.take_closed()
            if not closed and now_us - self._terms.started_us <= self._terms.most_us:
                return
            for period in closed:
                self._count(period)
            self.book.counted.begins, self.book.counted.positions = self.periods.begins(), dict(positions)
            self._judge(now_us, frozen)
            self._change(self.book)
            self.sync(now_us)

    @property
    def _terms(self) -> Terms:
        assert self.book.terms is not None
        return self.book.terms

    def _periods(self) -> Periods:
        terms, counted = self.book.terms, self.book.counted
        if terms is None:
            return Periods(self.book.split, {}, -1, 0, {}, {})
        return Periods(terms.split, terms.reward, counted.closed, terms.started_us, counted.begins, counted.positions)

    def _count(self, period: int) -> None:
        counted = self.book.counted
        units, tallies = self.periods.pop(period)
        for comparison in counted.comparisons.values():
            comparison.add(units, counted.usual)
        for arm, tally in tallies.items():
            counted.tallies.setdefault(arm, Tally()).merge(tally)
        counted.units += len(units)
        counted.impressions += sum(unit.impressions for unit in units)
        counted.reward += sum(unit.reward for unit in units)
        counted.closed, counted.late = period, self.periods.late

    def _judge(self, now_us: int, frozen: bool) -> None:
        for standing in self.book.standings:
            if standing.state != books.RUNNING:
                continue
            found, reason, checks = self._found(standing, now_us)
            self.book = self.book.stands(replace(standing, figures=self._figures(standing.arm)))
            if found == books.PROMOTED and not frozen:
                self._win(standing.arm, reason, checks, now_us)
                return
            if found == books.DROPPED:
                self._lose(standing.arm, reason, checks, now_us)

    def _found(self, standing: Standing, now_us: int) -> tuple[str, str, list[Check]]:
        """What a comparison says now: promoted, dropped, or running; why; and the checks behind it."""
        terms, comparison = self._terms, self.book.counted.comparisons[standing.arm]
        elapsed_us = now_us - terms.started_us
        if comparison.unbalanced():
            return books.DROPPED, "shoppers of one arm are missing: the shares are not what chance gave", []
        if comparison.enough:
            low, high = comparison.bounds(terms.each)
            worth = terms.gain * comparison.sides[terms.incumbent].rate
            checks = guards.checks(self._guards(standing.arm), self._bounds)
            failed = "; ".join(str(check) for check in checks if not check.passed)
            if high < 0:
                return books.DROPPED, f"surely worse: lift below {high:.3g} per impression", checks
            if high < worth:
                return books.DROPPED, f"not worth it: lift surely below {worth:.3g} per impression", checks
            if elapsed_us >= terms.least_us and low > worth:
                if failed:
                    return books.DROPPED, f"better, but {failed}", checks
                if harmed := comparison.harmed():
                    return books.DROPPED, f"better, but surely worse for {', '.join(harmed)}", checks
                return books.PROMOTED, f"surely better: lift above {low:.3g} per impression", checks
        if elapsed_us > terms.most_us:
            return books.DROPPED, "not surely better within the time given", []
        return books.RUNNING, "", []

    def _win(self, arm: str, reason: str, checks: list[Check], now_us: int) -> None:
        self._decided(now_us, "arm_promoted", arm, reason, checks)
        self.book = self.book.stands(replace(self._standing(arm), state=books.PROMOTED, reason=reason, share=0.0))
        self._end(arm, books.DROPPED, f"{arm} was promoted", now_us)

    def _lose(self, arm: str, reason: str, checks: list[Check], now_us: int) -> None:
        self._decided(now_us, "arm_dropped", arm, reason, checks)
        self.book = self.book.stands(replace(self._standing(arm), state=books.DROPPED, reason=reason, share=0.0))
        self._change(replace(self.book, split=self.book.split.without(arm)))
        if not any(standing.state == books.RUNNING for standing in self.book.standings):
            self._end(self.book.split.incumbent, books.DROPPED, "", now_us)

    def _end(self, incumbent: str, state: str, reason: str, now_us: int, actor: str = "") -> None:
        rest = tuple(
            replace(s, state=state, reason=reason, share=0.0) if s.state == books.RUNNING else s
            for s in self.book.standings
        )
        ended = self.book.ended_us or now_us
        self._note(now_us, "trial_ended", incumbent=incumbent, reason=reason, actor=actor)
        self._change(replace(self.book, split=Split(incumbent), ended_us=ended, standings=rest))
        self.sync(now_us)

    def _figures(self, arm: str) -> dict[str, float]:
        figures = self.book.counted.comparisons[arm].figures(self._terms.each) | self._guards(arm)
        return figures | {"late": float(self.book.counted.late), "strayed": float(self.periods.strayed)}

    def _guards(self, arm: str) -> dict[str, float]:
        tallies = self.book.counted.tallies
        return guards.compared(tallies.get(arm, Tally()), tallies.get(self._terms.incumbent, Tally()))

    def _standing(self, arm: str) -> Standing:
        return next(standing for standing in self.book.standings if standing.arm == arm)

    def _serves(self, arm: str) -> None:
        if not self._champions().get(arm):
            raise NotFound(f"arm {arm!r} has no release that serves")

    def _note(self, now_us: int, decision: str, **more: Any) -> None:
        self._audit.add(now_us, decision, trial=self.book.terms.trial if self.book.terms else "", **more)

    def _decided(self, now_us: int, decision: str, arm: str, reason: str, checks: list[Check]) -> None:
        figures, listed = self._figures(arm), [vars(check) for check in checks]
        self._note(now_us, decision, arm=arm, reason=reason, figures=figures, checks=listed)

    def _change(self, book: ArmsBook) -> None:
        books.write(self._path, book, self._disk)
        self.book = book
