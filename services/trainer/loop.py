"""The loop: take a batch, write down what it is, score it, learn it; push rows; now and then make a release.

Linear on purpose: one thread, one order. Whatever a step needs to be repeated after a crash is on disk before the
step begins, so that a restart ends with the same weights bit for bit (`journal`, `checkpoint`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.common.clock import Clock
from services.common.errors import CorruptState
from services.common.spec import ModelSpec
from services.trainer import champion, control, export, journal
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.control import Control
from services.trainer.deltas import DeltaFiles, DeltaInfo
from services.trainer.examples import Batch, Ranges
from services.trainer.files import remove_staging
from services.trainer.hooks import Hooks
from services.trainer.journal import Journal, Record
from services.trainer.learner import Blocks, Learner
from services.trainer.observe import Observer
from services.trainer.strategies.base import Learned
from services.trainer.triggers import Trigger

CONTROL_EVERY_US = 500_000
"""How often control.json is looked at."""


class Source(Protocol):
    """Where examples come from, with positions that are ours."""

    def seek(self, positions: Mapping[int, int]) -> None:
        """Go on from these offsets; partitions not named start at their beginning."""
        ...

    def poll(self, timeout_s: float) -> Batch | None:
        """The next whole messages, or None when there were none in that time. Raises TemporaryError."""
        ...

    def read(self, ranges: Ranges) -> Batch:
        """Exactly these messages again, as `poll` gave them before. Raises TemporaryError."""
        ...


@dataclass(frozen=True)
class ArmPaths:
    """Folders of an arm inside the model store."""

    store: Path
    arm: str

    @property
    def root(self) -> Path:
        """The arm's folder."""
        return self.store / "arms" / self.arm

    @property
    def releases(self) -> tuple[Path, Path]:
        """Where a release may lie: gated, or as exported."""
        return self.store / "releases", self.root / "exports"


@dataclass(frozen=True)
class LoopConfig:
    """How the loop goes, beside what it learns."""

    push_interval_us: int = 1_000_000
    poll_s: float = 0.1
    objective: tuple[tuple[str, float], ...] = (("click", 1.0), ("cart", 1.0), ("purchase", 1.0))
    keep: int = 3


LearnerFactory = Callable[[ModelSpec, Blocks | None], Learner]


class Loop:
    """One arm's trainer."""

    def __init__(
        self,
        paths: ArmPaths,
        config: LoopConfig,
        source: Source,
        make: LearnerFactory,
        wanted: Callable[[], ModelSpec],
        trigger: Trigger,
        clock: Clock,
        observer: Observer,
        hooks: Hooks,
    ) -> None:
        """`make` builds an empty learner; `wanted` says which features there are now."""
        self._paths, self._config, self._source, self._make = paths, config, source, make
        self._wanted, self._trigger, self._clock = wanted, trigger, clock
        self._observer, self._hooks = observer, hooks
        self._checkpoints = Checkpoints(paths.root / "checkpoints", hooks, config.keep)
        self._deltas = DeltaFiles(paths.root / "deltas", hooks)
        remove_staging(paths.root / "exports")
        self._control = Control()
        self._control_us = self._pushed_us = 0
        self._chain: list[Name] = []
        self._journal: Journal | None = None
        self._filled = True
        self.name = Name(1, 0)
        """The newest checkpoint."""
        self.epoch = 1
        self.delta_seq = 0
        self.learner = self._resume()

    def turn(self) -> list[Learned]:
        """One round: control, a batch if there is one, rows and a release when they are due."""
        self._obey()
        steps: list[Learned] = []
        batch = None if self._control.freeze_learning else self._source.poll(self._config.poll_s)
        if batch is not None:
            started = self._clock.now_us()
            self._write(batch.ranges)
            self._hooks.at("batch.journaled")
            steps = self.learner.apply(batch)
            self._hooks.at("batch.learned")
            self._observer.learned(batch, steps, (self._clock.now_us() - started) / 1e6)
        now = self._clock.now_us()
        if now - self._pushed_us >= self._config.push_interval_us:
            self.push()
        if self._trigger.due(now, self.learner.learned):
            self.release()
        return steps

    def push(self) -> None:
        """Write the rows changed since the last delta; nothing when there are none."""
        self._pushed_us = self._clock.now_us()
        items, users = self.learner.tables.item.changed(), self.learner.tables.user.changed()
        if not items[0] and not users[0]:
            return
        loss, rows = self.learner.running.take()
        info = DeltaInfo(self.epoch, self.learner.learned_up_to_us, self.learner.positions, loss, rows)
        # On record before the file is: the publisher may take it away, and no sequence may come twice.
        self._write({}, delta_seq=self.delta_seq + self._deltas.parts(items, users))
        self.delta_seq = self._deltas.write(self.delta_seq + 1, info, items, users)
        self._filled = True
        self._observer.delta(self.delta_seq, len(items[0]) + len(users[0]))

    def release(self) -> None:
        """Take new features in, save everything, export a candidate."""
        started = self._clock.now_us()
        self._adapt()
        self.push()
        self.save()
        self._trigger.fired(started, self.learner.learned)
        if not self.learner.recent:
            return
        name = export.release_id(started, self.name.lineage, self.name.seq)
        metrics = self.learner.progress.metrics()
        try:
            export.export(self._paths.root / "exports" / name, self._candidate(name, started, metrics), self._hooks)
        except CorruptState as error:
            self._observer.failed("export", error)
            return
        seconds = (self._clock.now_us() - started) / 1e6
        self._observer.released(name, metrics, self.learner.learned, seconds)

    def save(self) -> None:
        """Write a checkpoint; from here on the journal is its own."""
        name = Name(self.name.lineage, self.name.seq + 1)
        extra = {"epoch": self.epoch, "delta_seq": self.delta_seq, "filled": self._filled}
        needs = self._checkpoints.save(name, self.learner, self._chain, extra)
        self._chain = [*needs, name]
        self._open(name)
        self._checkpoints.prune(_checkpoints_of(self._paths.releases))

    @property
    def slot(self) -> str:
        """The row slot that this lineage fills."""
        return self._control.slot

    @property
    def frozen(self) -> bool:
        """True while learning is frozen: nothing is consumed."""
        return self._control.freeze_learning

    def close(self) -> None:
        """Save what was learned since the last checkpoint and give files back."""
        if self.learner.entries != self._saved_entries:
            self.push()
            self.save()
        if self._journal is not None:
            self._journal.close()

    def _resume(self) -> Learner:
        saved = self._checkpoints.newest()
        if saved is None:
            learner = self._make(self._wanted(), None)
            self._source.seek({})
            self.learner = learner
            self.save()
            return learner
        return self._replay(saved)

    def _replay(self, saved: Saved) -> Learner:
        """Restore a checkpoint and learn again, batch by batch, what came after it."""
        self.learner = learner = self._restored(saved)
        folders = self._checkpoints.journals(saved.name)
        for record in journal.read(folders):
            self.delta_seq = max(self.delta_seq, record.delta_seq)
            if record.number > learner.entries:
                learner.entries = record.number
                if record.spec is not None:
                    learner.adapt(ModelSpec.from_json(record.spec))
                if record.ranges:
                    learner.apply(self._source.read(record.ranges))
        self._source.seek(learner.positions)
        self._open(self._checkpoints.names()[-1])
        return learner

    def _restored(self, saved: Saved) -> Learner:
        meta = saved.meta
        learner = self._make(ModelSpec.from_json(meta["spec"]), meta["blocks"])
        learner.restore(meta, saved.files, saved.rows)
        self.epoch = meta["epoch"]
        self.delta_seq = max(meta["delta_seq"], self._deltas.newest(self.epoch))
        self._chain = []
        self._filled = meta["filled"]
        if not self._filled:
            self._touch_all(learner)
        return learner

    def _obey(self) -> None:
        """Follow control.json: freeze, another champion, or another lineage from a checkpoint."""
        now = self._clock.now_us()
        if now - self._control_us < CONTROL_EVERY_US:
            return
        self._control_us = now
        try:
            wanted = control.read(self._paths.root / "control.json")
        except CorruptState as error:
            self._observer.failed("control", error)
            return
        if wanted.epoch > self.epoch and not self._begin(wanted):
            return
        self._control = wanted
        self._take_champion(wanted.champion)

    def _begin(self, wanted: Control) -> bool:
        """A new epoch: from the named checkpoint, or from where we are, and every row again into the new slot.

        False when that checkpoint cannot be had: the old epoch goes on, which the publisher no longer takes rows of.
        """
        name = Name.parse(wanted.from_checkpoint)
        if name is not None:
            try:
                saved = self._checkpoints.load(name)
            except CorruptState as error:
                self._observer.failed("control", error)
                return False
            self.learner = self._restored(saved)
            self._source.seek(self.learner.positions)
        self.epoch, self.delta_seq = wanted.epoch, self._deltas.newest(wanted.epoch)
        taken = [n.seq for n in self._checkpoints.names() if n.lineage == wanted.lineage]
        self.name = Name(wanted.lineage, max([self.name.seq, *taken]))
        self._touch_all(self.learner)
        self._filled = False
        self._control = wanted
        self.save()
        self.push()
        return True

    def _take_champion(self, release: str) -> None:
        current = self.learner.champion
        if not release or (current is not None and current.release == release):
            return
        try:
            found = champion.load(release, self._paths.releases)
        except CorruptState as error:
            self._observer.failed("champion", error)
            return
        self.learner.champion = found or current

    def _adapt(self) -> None:
        """Take the features that there are now; the scores of this moment stay as they are."""
        try:
            wanted = self._wanted()
        except Exception as error:
            # Whatever the repository holds, learning on with the features there were is better than stopping.
            self._observer.failed("features", error)
            return
        if wanted != self.learner.spec:
            self._write({}, spec=wanted.to_json())
            self.learner.adapt(wanted)

    def _write(self, ranges: Ranges, delta_seq: int | None = None, spec: dict[str, Any] | None = None) -> None:
        assert self._journal is not None
        self.learner.entries += 1
        self._journal.write(Record(self.learner.entries, ranges, delta_seq or self.delta_seq, spec))

    def _open(self, name: Name) -> None:
        if self._journal is not None:
            self._journal.close()
        self.name = name
        self._saved_entries = self.learner.entries
        self._journal = Journal(self._checkpoints.path(name))

    def _candidate(self, name: str, now_us: int, metrics: Mapping[str, float]) -> export.Candidate:
        learner = self.learner
        manifest = {
            "release": name,
            "arm": self._paths.arm,
            "lineage": self.name.lineage,
            "epoch": self.epoch,
            "seq": self.name.seq,
            "slot": self.slot,
            "parent": self._control.champion,
            "created_us": now_us,
            "learned_up_to_us": learner.learned_up_to_us,
            "positions": {str(p): offset for p, offset in learner.positions.items()},
            "metrics": {k: v if v == v else None for k, v in metrics.items()},
            "checkpoint": str(self.name),
            "objective": dict(self._config.objective),
        }
        strategy = learner.strategy
        return export.Candidate(
            strategy.ranker, strategy.towers, learner.tables, learner.spec, tuple(learner.recent), manifest
        )

    @staticmethod
    def _touch_all(learner: Learner) -> None:
        learner.tables.item.touch_all()
        learner.tables.user.touch_all()


def _checkpoints_of(folders: Sequence[Path]) -> Iterable[str]:
    """Checkpoints that releases still on disk came from: a rollback may ask for them."""
    for folder in folders:
        for path in folder.glob("*/manifest.json"):
            yield export.checkpoint_of(path)
