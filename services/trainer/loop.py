"""The loop: take a batch, score it, learn it; push rows; now and then make a release. One thread, one order."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import CorruptState, FreshrankError, InvalidInput
from services.common.spec import ModelSpec
from services.trainer import control, export
from services.trainer.arm import Arm, Source
from services.trainer.control import Control
from services.trainer.files import write_file
from services.trainer.hooks import Hooks
from services.trainer.maintenance import FINE_TUNE, PRUNE, RETRAIN, Choice, Maintenance
from services.trainer.observe import Observer
from services.trainer.slices import Hold
from services.trainer.strategies.base import Learned
from services.trainer.triggers import Trigger

CONTROL_EVERY_US = 250_000
"""How often control.json is looked at."""


@dataclass(frozen=True)
class LoopConfig:
    """How the loop goes, beside what it learns."""

    push_interval_us: int = 1_000_000
    poll_s: float = 0.1
    objective: tuple[tuple[str, float], ...] = (("click", 1.0), ("cart", 1.0), ("purchase", 1.0))
    log_clock: bool = False
    """Triggers count the log's time instead of the clock's."""


class Loop:
    """One arm's trainer."""

    def __init__(
        self,
        arm: Arm,
        source: Source,
        config: LoopConfig,
        wanted: Callable[[], ModelSpec],
        trigger: Trigger,
        clock: Clock,
        observer: Observer,
        hooks: Hooks,
        hold: Hold | None = None,
        maintenance: Maintenance | None = None,
    ) -> None:
        """`wanted` says which features there are now; `hold` may make a due release wait."""
        self._maintenance = maintenance or Maintenance()
        self.arm, self._source, self._config, self._wanted = arm, source, config, wanted
        self._trigger, self._clock, self._observer, self._hooks = trigger, clock, observer, hooks
        self._hold = hold or Hold()
        self._control = Control()
        self._looked_us = self._pushed_us = 0
        # From the last release, not from the restart: one that restarts often releases all the same.
        trigger.fired(self._trigger_us(), arm.learner.released_at)

    @property
    def frozen(self) -> bool:
        """True while learning is frozen: nothing is consumed."""
        return self._control.freeze_learning

    def turn(self) -> list[Learned]:
        """One round: control, a batch if there is one, rows and a release when they are due."""
        self._obey()
        steps: list[Learned] = []
        batch = None if self.frozen else self._source.poll(self._config.poll_s)
        if batch is not None:
            started = self._clock.now_us()
            steps = self.arm.learn(batch)
            self._observer.learned(batch, steps, (self._clock.now_us() - started) / 1e6)
        if self._clock.now_us() - self._pushed_us >= self._config.push_interval_us:
            self.push()
        if reason := self._due():
            self.release(reason)
        return steps

    def push(self) -> None:
        """Write changed rows for the publisher."""
        self._pushed_us = self._clock.now_us()
        rows, oldest = self.arm.push(), self.arm.learner.take_oldest()
        if rows:
            self._observer.delta(self.arm.delta_seq, rows, oldest)

    def release(self, reason: str = "asked for") -> None:
        """Take new features in, save everything, export a candidate that says what made it time."""
        started = self._clock.now_us()
        self._adapt()
        choice = self._maintain()
        self.push()
        self.arm.save()
        if self.arm.learner.recent:
            self._export(started, reason, choice)
        seconds = (self._clock.now_us() - started) / 1e6
        self._trigger.fired(self._trigger_us(), self.arm.learner.learned, seconds)
        self._hold.released()

    def _maintain(self) -> Choice:
        """Do what the policy chooses before a release."""
        learner, policy = self.arm.learner, self._maintenance
        choice = policy.choose(self._trigger_us(), learner.learned, learner.filled)
        if choice.action == PRUNE:
            self.arm.prune(choice.share)
        if choice.action == RETRAIN:
            wish = {"action": RETRAIN, "why": choice.why, "asked_us": self._clock.now_us()}
            write_file(self.arm.paths.wishes, json.dumps(wish).encode(), self._hooks, "wish")
        self.arm.released(choice.action == FINE_TUNE or not policy.fine_tunes)
        if choice.why:
            self._observer.maintained(choice.action, choice.why)
        return choice

    def _due(self) -> str:
        """What makes a release go now: the trigger's reason, once nothing holds it."""
        learner, held = self.arm.learner, self._hold.why
        losses = learner.progress.take_losses()
        self._trigger.see(*losses)
        self._maintenance.see(*losses)
        for sample in learner.take_samples():
            self._trigger.watch(sample)
            self._hold.watch(sample)
            self._maintenance.watch(sample)
        now_us = self._trigger_us()
        reason = self._hold.passed(self._trigger.due(now_us, learner.learned), now_us)
        if self._hold.why and not held:
            self._observer.held(self._hold.why)
        return reason

    def _export(self, started: int, reason: str, choice: Choice) -> None:
        learner = self.arm.learner
        name = export.release_id(started, self.arm.name.lineage, self.arm.name.seq, self.arm.paths.arm)
        metrics = learner.progress.metrics()
        try:
            candidate = self._candidate(name, started, metrics, reason, choice)
            export.export(self.arm.paths.exports / name, candidate, self._hooks)
        except CorruptState as error:
            self._observer.failed("export", error)
            return
        self._observer.released(name, metrics, learner.learned, (self._clock.now_us() - started) / 1e6)

    def _trigger_us(self) -> int:
        return self.arm.learner.log_us if self._config.log_clock else self._clock.now_us()

    def _obey(self) -> None:
        """Follow control.json: freeze, another champion, or another lineage from a checkpoint."""
        now = self._clock.now_us()
        if now - self._looked_us < CONTROL_EVERY_US:
            return
        self._looked_us = now
        try:
            wanted = control.read(self.arm.paths.root / "control.json")
            if wanted.epoch > self.arm.epoch:
                self.arm.begin(wanted)
                self._trigger.fired(self._trigger_us(), self.arm.learner.released_at)
                self._hold.released()
        except (CorruptState, InvalidInput) as error:
            self._observer.failed("control", error)
            return
        self._control = wanted
        self._take_champion(wanted.champion)

    def _take_champion(self, release: str) -> None:
        try:
            self.arm.take_champion(release)
        except CorruptState as error:
            self._observer.failed("champion", error)

    def _adapt(self) -> None:
        try:
            self.arm.adapt(self._wanted())
        except FreshrankError as error:
            # Whatever the repository holds, learning on with the features there were is better than stopping.
            self._observer.failed("features", error)

    def _candidate(
        self, name: str, now_us: int, metrics: Mapping[str, float], reason: str, choice: Choice
    ) -> export.Candidate:
        arm, learner = self.arm, self.arm.learner
        manifest = {
            "release": name,
            "arm": arm.paths.arm,
            "lineage": arm.name.lineage,
            "epoch": arm.epoch,
            "seq": arm.name.seq,
            "slot": self._control.slot,
            "parent": self._control.champion,
            "created_us": now_us,
            "learned_up_to_us": learner.learned_up_to_us,
            "positions": {str(p): offset for p, offset in learner.positions.items()},
            "row_seq": arm.delta_seq,
            "metrics": {k: v if v == v else None for k, v in metrics.items()},
            "checkpoint": str(arm.name),
            "model": learner.strategy.served.model,
            "trigger": reason,
            "maintenance": f"{choice.action}: {choice.why}" if choice.why else choice.action,
            "objective": dict(self._config.objective),
        }
        strategy = learner.strategy
        requests = tuple(learner.recent)
        return export.Candidate(strategy.served, strategy.towers, learner.tables, learner.spec, requests, manifest)
