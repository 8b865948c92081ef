"""A learner with everything that makes it durable: journal, checkpoints, row deltas, epoch.

Whatever a step needs to be repeated after a crash is on disk before the step begins, so that a restart ends with
the same weights bit for bit.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from services.common.errors import CorruptState, InvalidInput
from services.common.spec import ModelSpec
from services.trainer import champion, journal
from services.trainer.archive_writer import Archive
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.control import Control
from services.trainer.deltas import DeltaFiles, DeltaInfo
from services.trainer.examples import Batch, Ranges
from services.trainer.export import checkpoint_of
from services.trainer.files import remove_staging
from services.trainer.hooks import Hooks
from services.trainer.journal import Journal, Record
from services.trainer.learner import Blocks, Learner
from services.trainer.models.registry import UNNAMED
from services.trainer.strategies.base import Learned

log = logging.getLogger(__name__)


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
    def exports(self) -> Path:
        """Candidates."""
        return self.root / "exports"

    @property
    def way(self) -> Path:
        """The settings that the arm was last learned by."""
        return self.root / "way.json"

    @property
    def wishes(self) -> Path:
        """What the maintenance policy asks of others: a full retrain."""
        return self.root / "maintenance.json"

    @property
    def examples(self) -> Path:
        """What was learned, in Parquet."""
        return self.root / "examples"

    @property
    def releases(self) -> tuple[Path, Path]:
        """Where a release may lie: gated, or as exported."""
        return self.store / "releases", self.exports


LearnerFactory = Callable[[ModelSpec, Blocks | None], Learner]


class Arm:
    """One arm's state, in memory and on disk."""

    def __init__(
        self,
        paths: ArmPaths,
        source: Source,
        make: LearnerFactory,
        wanted: Callable[[], ModelSpec],
        hooks: Hooks,
        keep: int = 3,
        archive: Archive | None = None,
        start: Callable[[Learner], None] = lambda learner: None,
    ) -> None:
        """Goes on from the newest whole checkpoint and its journal, or begins with the `wanted` features.

        `start` is given the learner of an arm that begins, `make` builds an empty one. Raises CorruptState when there
        are checkpoints but none is whole, InvalidInput when the row dimension, the heads or the model are not those of
        the checkpoint.
        """
        self.paths, self._source, self._make, self._hooks = paths, source, make, hooks
        self._archive = archive
        self._checkpoints = Checkpoints(paths.root / "checkpoints", hooks, keep)
        self._deltas = DeltaFiles(paths.root / "deltas", hooks)
        remove_staging(paths.exports)
        self._chain: list[Name] = []
        self._journal: Journal | None = None
        self._saved_entries = 0
        self.name = Name(1, 0)
        """The newest checkpoint."""
        self.epoch = 1
        self.delta_seq = 0
        saved = self._checkpoints.newest()
        if saved is None:
            self.learner = make(wanted(), None)
            start(self.learner)
            source.seek({})
            self.save()
        else:
            same_shape(wanted(), ModelSpec.from_json(saved.meta["spec"]))
            self.learner = self._restored(saved)
            self._replay(saved.name)

    def learn(self, batch: Batch) -> list[Learned]:
        """Write down what the batch is, then score and learn it."""
        self._write(batch.ranges)
        self._hooks.at("batch.journaled")
        steps = self._apply(batch)
        self._hooks.at("batch.learned")
        return steps

    def adapt(self, wanted: ModelSpec) -> bool:
        """Take the features of `wanted` in; False when they are the ones there are."""
        spec = _with_features(self.learner.spec, wanted)
        if spec == self.learner.spec:
            return False
        self._write({}, spec=spec.to_json())
        self.learner.adapt(spec)
        return True

    def released(self, deep: bool = True) -> None:
        """Give the strategy its moment before a release; on record first, for it may change what is learned."""
        self._write({}, mark=journal.RELEASED if deep else journal.STEPPED)
        self.learner.released(deep)

    def prune(self, share: float) -> int:
        """Let old rows go, down to that share of the most there may be; returns how many."""
        self._write({}, mark=f"{journal.PRUNED}{share:g}")
        return self.learner.prune(share)

    def take_champion(self, release: str) -> None:
        """Compare with, and be taught by, another release. Raises CorruptState when it cannot be read."""
        current = self.learner.champion
        if release and (current is None or current.release != release):
            found = champion.load(release, self.paths.releases)
            if found is not None:
                self._write({}, mark=journal.CHAMPION + release)
                self.learner.champion = found

    def push(self) -> int:
        """Write the rows changed since the last delta; returns how many, 0 writes nothing."""
        tables, learner = self.learner.tables, self.learner
        items, users = tables.item.changed(), tables.user.changed()
        if not items[0] and not users[0]:
            return 0
        loss, rows = learner.running.take()
        info = DeltaInfo(self.epoch, learner.learned_up_to_us, learner.positions, loss, rows)
        # On record before the file is: the publisher may take it away, and no sequence may come twice.
        self._write({}, delta_seq=self.delta_seq + self._deltas.parts(items, users))
        self.delta_seq = self._deltas.write(self.delta_seq + 1, info, items, users, tables.item.seen(items[0]))
        return len(items[0]) + len(users[0])

    def save(self, unpushed: bool = False) -> None:
        """Write a checkpoint; from here on the journal is its own. The rows are in deltas before, unless `unpushed`."""
        name = Name(self.name.lineage, self.name.seq + 1)
        extra: dict[str, Any] = {"epoch": self.epoch, "delta_seq": self.delta_seq}
        if unpushed:
            extra["rows_unpushed"] = True
        if self._archive is not None:
            self._archive.describe(self.learner.spec)
            self._archive.flush()
        needs = self._checkpoints.save(name, self.learner, self._chain, extra)
        self._chain = [*needs, name]
        self._open(name)
        self._checkpoints.prune(checkpoints_of(self.paths.releases))

    def begin(self, wanted: Control) -> None:
        """Another lineage and epoch, from the checkpoint that the publisher names; without a name from where we are.

        Raises CorruptState when that checkpoint cannot be had, InvalidInput when it is of another model; nothing has
        changed then. The publisher fills the new slot itself, but for a new epoch without a checkpoint: then every row
        is pushed. Deltas of the new epoch begin with 1.
        """
        name = Name.parse(wanted.from_checkpoint)
        if name is not None:
            self.learner = self._restored(self._checkpoints.load(name))
            self._source.seek(self.learner.positions)
        else:  # slots that others have used: what was pushed before counts as absent
            self.learner.tables.item.touch_all()
            self.learner.tables.user.touch_all()
        self.epoch, self.delta_seq = wanted.epoch, self._deltas.newest(wanted.epoch)
        taken = [n.seq for n in self._checkpoints.names() if n.lineage == wanted.lineage]
        self.name = Name(wanted.lineage, max([self.name.seq, *taken]))
        self.save(unpushed=name is None)

    def close(self) -> None:
        """Save what was learned since the last checkpoint and give files back."""
        if self.learner.entries != self._saved_entries:
            self.push()
            self.save()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _restored(self, saved: Saved) -> Learner:
        meta = saved.meta
        learner = self._make(ModelSpec.from_json(meta["spec"]), meta["blocks"])
        same_model(learner.strategy.ranker.model, meta.get("model", UNNAMED), saved.name)
        try:
            learner.restore(meta, saved.files, saved.rows)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CorruptState(
                f"checkpoint {saved.name} is of another model, which needs another arm: {reason}"
            ) from error
        self._find_champion(learner, meta.get("champion", ""))
        if meta.get("rows_unpushed"):
            learner.tables.item.touch_all()
            learner.tables.user.touch_all()
        self.epoch = meta["epoch"]
        self.delta_seq = max(meta["delta_seq"], self._deltas.newest(self.epoch))
        self._chain = []  # the next checkpoint holds every row: it need not trust what came before the restart
        return learner

    def _replay(self, name: Name) -> None:
        """Learn again, batch by batch, what came after a checkpoint."""
        learner = self.learner
        for record in journal.read(self._checkpoints.journals(name)):
            self.delta_seq = max(self.delta_seq, record.delta_seq)
            if record.number <= learner.entries:
                continue
            learner.entries = record.number
            if record.spec is not None:
                learner.adapt(ModelSpec.from_json(record.spec))
            self._repeat(record.mark)
            if record.ranges:
                self._apply(self._source.read(record.ranges))
        self._source.seek(learner.positions)
        self._open(self._checkpoints.names()[-1])

    def _repeat(self, mark: str) -> None:
        if mark in (journal.RELEASED, journal.STEPPED):
            self.learner.released(mark == journal.RELEASED)
        elif mark.startswith(journal.PRUNED):
            self.learner.prune(float(mark.removeprefix(journal.PRUNED)))
        elif mark.startswith(journal.CHAMPION):
            self._find_champion(self.learner, mark.removeprefix(journal.CHAMPION))

    def _find_champion(self, learner: Learner, release: str) -> None:
        """The champion of then; without it (retired since) learning goes on as if there had been none."""
        try:
            learner.champion = champion.load(release, self.paths.releases) if release else None
        except CorruptState as error:
            log.warning("champion passed over", extra={"release": release, "error": str(error)})

    def _apply(self, batch: Batch) -> list[Learned]:
        if self._archive is not None:
            self._archive.add(batch)
        return self.learner.apply(batch)

    def _write(
        self, ranges: Ranges, delta_seq: int | None = None, spec: dict[str, Any] | None = None, mark: str = ""
    ) -> None:
        assert self._journal is not None
        self.learner.entries += 1
        self._journal.write(Record(self.learner.entries, ranges, delta_seq or self.delta_seq, spec, mark))

    def _open(self, name: Name) -> None:
        if self._journal is not None:
            self._journal.close()
        self.name = name
        self._saved_entries = self.learner.entries
        self._journal = Journal(self._checkpoints.path(name))


def _with_features(spec: ModelSpec, wanted: ModelSpec) -> ModelSpec:
    return replace(
        spec,
        user_features=wanted.user_features,
        item_features=wanted.item_features,
        feature_service=wanted.feature_service,
    )


def same_shape(wanted: ModelSpec, found: ModelSpec) -> None:
    """Raises InvalidInput when checkpoints have rows of another length, or other heads."""
    if wanted.row_dim != found.row_dim:
        detail = f"the checkpoints have rows of {found.row_dim} values; another length needs another arm"
        raise InvalidInput("row_dim", "changed", detail)
    if wanted.heads != found.heads:
        detail = f"the checkpoints have the heads {', '.join(found.heads)}; others need another arm"
        raise InvalidInput("loss_weights", "changed", detail)


def same_model(wanted: str, found: str, name: Name) -> None:
    """Raises InvalidInput when a checkpoint is of another model."""
    if wanted != found:
        detail = f"checkpoint {name} is of the model {found}; {wanted} needs another arm"
        raise InvalidInput("model", "changed", detail)


def checkpoints_of(folders: Sequence[Path]) -> Iterable[str]:
    """Checkpoints that releases still on disk came from: a rollback may ask for them."""
    for folder in folders:
        for path in folder.glob("*/manifest.json"):
            yield checkpoint_of(path)
