"""A full retrain: an arm learned anew from another one's archive, and compared with it on lists neither has learned.

The archive is learned from its beginning up to where the other arm's oldest checkpoint stands; from there on both go
through the rest, each judged on every list before it is learned (Blum, Kalai, Langford, 1999), as two trainers would
have been that stood there side by side. What is written is a checkpoint of a new arm: its trainer goes on from the
positions in it on the topic, so nothing between the archive and now is left out.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.errors import CorruptState, InvalidInput, NotFound
from services.common.spec import ModelSpec
from services.trainer.archive import ArchiveSource
from services.trainer.arm import ArmPaths
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.evaluation.judge import Judge, common
from services.trainer.examples import Example
from services.trainer.factory import learner_of
from services.trainer.groups import Group
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.models.registry import UNNAMED
from services.trainer.progress import figures_of
from services.trainer.settings import TrainerSettings

MESSAGES = 200
"""Of a batch."""


@dataclass(frozen=True)
class Retrained:
    """What came of it."""

    arm: str
    checkpoint: str
    learned: int
    """Examples learned in all."""
    judged: int
    """Lists that both arms have scored before learning them."""
    seconds: float
    """Of processor time."""
    metrics: dict[str, float]
    """Figures of the new arm; `champion_` the other one's on the same lists. What the release gate reads."""


class Retrain:
    """One retrain, step by step: `learn`, `compare`, and `save` when it is to be kept."""

    def __init__(self, settings: TrainerSettings, rival: str) -> None:
        """`settings` are the new arm's; `rival` is the arm whose archive is learned.

        Raises NotFound without a checkpoint of it, CorruptState for a broken archive, InvalidInput when the new arm
        exists.
        """
        torch.set_num_threads(settings.threads)
        self._settings, self._paths = settings, ArmPaths(settings.store, settings.arm)
        theirs = ArmPaths(settings.store, rival)
        if settings.arm == rival or self._paths.root.exists():
            raise InvalidInput("arm", "exists", f"{settings.arm} is there already; a retrain makes a new arm")
        saved = _oldest(Checkpoints(theirs.root / "checkpoints", NoHooks()))
        self._examples = theirs.examples
        self._rival = _restored(_way_of(theirs, settings), saved)
        self._from = dict(self._rival.positions)
        wanted = ArchiveSource(self._examples).spec
        spec = replace(wanted, row_dim=settings.row_dim, heads=tuple(settings.loss_weights))
        self._learner = learner_of(settings, spec, None)
        self._seconds = 0.0
        self._lists: tuple[Judge, Judge] = (Judge(), Judge())

    @property
    def messages(self) -> int:
        """Messages in all."""
        return ArchiveSource(self._examples).messages

    def learn(self, report: Callable[[int], None]) -> None:
        """Learn what the rival had learned; `report` is told of messages."""
        source = ArchiveSource(self._examples, MESSAGES, ends=self._from)
        self._through(source, [self._learner], report)

    def compare(self, report: Callable[[int], None]) -> Retrained:
        """Go through the rest with both."""
        ours, theirs = self._lists
        self._learner.watcher, self._rival.watcher = _Watch(ours), _Watch(theirs)
        source = ArchiveSource(self._examples, MESSAGES)
        source.seek(self._from)
        self._through(source, [self._learner, self._rival], report)
        one, other = common([ours.lists, theirs.lists])
        metrics: dict[str, float] = {"impressions": float(len(one))}
        if one:
            clicks = [judged.clicks for judged in one]
            metrics |= figures_of(clicks, [judged.scores for judged in one])
            champions = figures_of(clicks, [judged.scores for judged in other])
            metrics |= {f"champion_{name}": value for name, value in champions.items()}
        return Retrained(self._settings.arm, "1-1", self._learner.learned, len(one), self._seconds, metrics)

    def save(self) -> str:
        """Write the new arm's first checkpoint; returns its path. Its trainer will push every row."""
        checkpoints = Checkpoints(self._paths.root / "checkpoints", NoHooks(), self._settings.checkpoints)
        self._learner.watcher = None
        name = Name(1, 1)
        checkpoints.save(name, self._learner, [], {"epoch": 1, "delta_seq": 0, "rows_unpushed": True})
        return str(checkpoints.path(name))

    def _through(self, source: ArchiveSource, learners: list[Learner], report: Callable[[int], None]) -> None:
        began = time.process_time()
        while (batch := source.poll()) is not None:
            for learner in learners:
                learner.apply(batch)
            report(sum(end - start for start, end in batch.ranges.values()))
        self._seconds += time.process_time() - began


class _Watch:
    """A judge over a learner's shoulder."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def appeared(self, group: Group, scores: NDArray[np.float32], now_us: int) -> None:
        """See `Watcher`."""
        self._judge.appeared(group, scores)

    def closed(self, example: Example) -> None:
        """See `Watcher`."""
        self._judge.closed(example)


def _oldest(checkpoints: Checkpoints) -> Saved:
    for name in checkpoints.names():
        return checkpoints.load(name)
    raise NotFound(f"{checkpoints.folder.parent.name} has no checkpoint to be compared with")


def _way_of(paths: ArmPaths, settings: TrainerSettings) -> TrainerSettings:
    """The settings an arm is learned by, as its trainer has written them down; without that, those given."""
    try:
        own = json.loads(paths.way.read_text())
        return TrainerSettings(**{"store": paths.store, "arm": paths.arm, **own})
    except FileNotFoundError:
        return settings.model_copy(update={"arm": paths.arm})
    except ValueError as error:
        raise CorruptState(f"{paths.way.name} of arm {paths.arm}: {error}") from error


def _restored(settings: TrainerSettings, saved: Saved) -> Learner:
    own = settings.model_copy(update={"model": saved.meta.get("model", UNNAMED)})
    learner = learner_of(own, ModelSpec.from_json(saved.meta["spec"]), saved.meta["blocks"])
    learner.restore(saved.meta, saved.files, saved.rows)
    return learner
