"""A smaller model taught by a larger one, offline: the scores of a checkpoint on the examples of an archive.

Knowledge distillation (Hinton et al., 2015): the student learns (1 - share) · its labels + share · T² · the teacher's
scores at temperature T. Teacher and student need not have the same model, sizes, row length or features: the teacher
reads each impression by its own features and rows. What comes out is the first checkpoint of an arm.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.encode import encode
from services.common.errors import Conflict, InvalidInput
from services.common.spec import OUTPUT, ModelSpec
from services.trainer import export
from services.trainer.archive import ArchiveSource
from services.trainer.arm import ArmPaths
from services.trainer.champion import session
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.evaluation import figures
from services.trainer.evaluation.judge import Judge
from services.trainer.examples import Example
from services.trainer.factory import learner_of
from services.trainer.groups import Floats, Group, Tables
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.models.base import Sizes
from services.trainer.models.registry import UNNAMED
from services.trainer.settings import TrainerSettings

_RUNS = 20
"""Runs behind the milliseconds of a batch."""
_BATCH = 32
"""Impressions in it."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, and how."""

    examples: Path
    """Archive of a trainer: `<store>/arms/<arm>/examples`."""
    teacher: Path
    """Checkpoint: `<store>/arms/<arm>/checkpoints/<lineage>-<seq>`."""
    share: float = 0.5
    temperature: float = 2.0
    epochs: int = 1
    tail: float = 0.2
    """Share of the archive that is judged and not learned, the newest."""


@dataclass(frozen=True)
class Marks:
    """What a model is worth on lists that it has not learned, and what it costs."""

    auc: figures.Figure
    log_loss: figures.Figure
    onnx_bytes: int
    weights: int
    """Dense numbers."""
    row_dim: int
    batch_ms: float
    """Median time of the exported file for one batch, one thread."""


@dataclass(frozen=True)
class Graduation:
    """A student, and what it is measured against."""

    teacher: Marks
    distilled: Marks
    alone: Marks
    """The same student, learned from the same examples without the teacher."""
    teacher_knew: bool
    """True when the teacher's checkpoint has learned lists that are judged: its figures flatter."""
    checkpoint: str

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class CheckpointTeacher:
    """A checkpoint as a `Teacher`: its own weights on its own rows."""

    def __init__(self, saved: Saved, folder: Path) -> None:
        """Raises CorruptState when the checkpoint does not hold what it says."""
        self.release = str(saved.name)
        self.learner = _restored(saved, folder)

    @torch.no_grad()
    def scores(self, group: Group, spec: ModelSpec, tables: Tables) -> Floats:
        """See `Teacher`; `spec` and `tables` are the student's."""
        impressions = [example.impression for example in group.examples]
        arrays = encode(impressions, self.learner.spec, self.learner.tables)
        logits = self.learner.strategy.served.logits({name: torch.from_numpy(a) for name, a in arrays.items()})
        out: Floats = torch.sigmoid(logits).numpy()
        return out


def teach(
    lesson: Lesson, settings: TrainerSettings, progress: Callable[[int, str], None] = lambda done, what: None
) -> Graduation:
    """Teach a student of these settings; its checkpoint is the first one of the arm that they name.

    `progress` is told of passes over the archive that are done: two an epoch, and three that judge.

    Raises InvalidInput when the teacher is no checkpoint or has other heads, Conflict when the arm has checkpoints.
    """
    torch.set_num_threads(settings.threads)
    checkpoints = _new_arm(settings)
    teacher = _teacher(lesson.teacher)
    spec = ArchiveSource(lesson.examples).spec
    student_spec = replace(spec, row_dim=settings.row_dim, heads=tuple(settings.loss_weights))
    if student_spec.heads != teacher.learner.spec.heads:
        heads = ", ".join(teacher.learner.spec.heads)
        raise InvalidInput(
            "loss_weights", "heads", f"the teacher has the heads {heads}; the student's must be the same"
        )
    knew = dict(teacher.learner.positions)
    part = f"distillation({lesson.share:g}, {lesson.temperature:g})"
    line = f"{part}, {settings.strategy}" if settings.strategy else part
    distilled = learner_of(settings.model_copy(update={"strategy": line}), student_spec, None)
    alone = learner_of(settings, student_spec, None)
    _learn(distilled, lesson, teacher)
    progress(lesson.epochs, "taught")
    _learn(alone, lesson, None)
    progress(2 * lesson.epochs, "learned alone")
    name = Name(1, 1)
    checkpoints.save(name, distilled, [], {"epoch": 1, "delta_seq": 0, "rows_unpushed": True})
    start = dict(distilled.positions)
    theirs, taught, untaught = (_marks(made, lesson, start) for made in (teacher.learner, distilled, alone))
    known = any(knew.get(partition, 0) > offset for partition, offset in start.items())
    return Graduation(theirs, taught, untaught, teacher_knew=known, checkpoint=str(checkpoints.path(name)))


def _new_arm(settings: TrainerSettings) -> Checkpoints:
    checkpoints = Checkpoints(ArmPaths(settings.store, settings.arm).root / "checkpoints", NoHooks())
    if checkpoints.names():
        raise Conflict(f"the arm {settings.arm} has checkpoints; a student begins an arm of its own")
    return checkpoints


def _teacher(folder: Path) -> CheckpointTeacher:
    name = Name.parse(folder.name)
    if name is None or not folder.is_dir():
        raise InvalidInput("teacher", "missing", f"{folder} is no checkpoint: .../checkpoints/<lineage>-<seq>")
    return CheckpointTeacher(Checkpoints(folder.parent, NoHooks()).load(name), folder)


def _restored(saved: Saved, folder: Path) -> Learner:
    """The learner of a checkpoint, by what it says of itself; parts of its strategy are passed over."""
    spec, sizes = ModelSpec.from_json(saved.meta["spec"]), saved.meta.get("sizes") or asdict(Sizes())
    settings = TrainerSettings(
        store=folder,  # nothing of another arm is to be found there
        model=saved.meta.get("model", UNNAMED),
        row_dim=spec.row_dim,
        hidden=tuple(sizes["hidden"]),
        layers=sizes["layers"],
        loss_weights=dict.fromkeys(spec.heads, 1.0),
        retrieval_dim=int(saved.files["dense"]["towers:content"].shape[1]),
        strategy="",
        labels="flips",
        privacy="",
    )
    learner = learner_of(settings, spec, saved.meta["blocks"])
    learner.restore(saved.meta, saved.files, saved.rows)
    return learner


def _learn(learner: Learner, lesson: Lesson, teacher: CheckpointTeacher | None) -> None:
    source = ArchiveSource(lesson.examples, until=1 - lesson.tail)
    learner.champion = teacher
    for _ in range(lesson.epochs):
        source.seek({})
        learner.reader.seen = {}  # the same examples again, on purpose
        while (batch := source.poll()) is not None:
            learner.apply(batch)
    learner.champion = None


class _Watch:
    """Judges, and keeps some impressions to take the time of."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.some: list[Example] = []

    def appeared(self, group: Group, scores: NDArray[np.float32], now_us: int) -> None:
        """See `Watcher`."""
        self.judge.appeared(group, scores)
        self.some += group.examples[: _BATCH - len(self.some)]

    def closed(self, example: Example) -> None:
        """See `Watcher`."""
        self.judge.closed(example)


def _marks(learner: Learner, lesson: Lesson, start: Mapping[int, int]) -> Marks:
    """Go through the rest of the archive without learning."""
    watch, source = _Watch(), ArchiveSource(lesson.examples)
    learner.learning, learner.reader.seen, learner.watcher = False, {}, watch
    source.seek(start)
    while (batch := source.poll()) is not None:
        learner.apply(batch)
    ranker = learner.strategy.served
    model = export.onnx_bytes(ranker.adapted(learner.spec).cpu().eval(), learner.spec)
    return Marks(
        auc=figures.pooled_auc(watch.judge.lists),
        log_loss=figures.mean(figures.table(watch.judge.lists)["log_loss"]),
        onnx_bytes=len(model),
        weights=sum(parameter.numel() for parameter in ranker.parameters()),
        row_dim=learner.spec.row_dim,
        batch_ms=_batch_ms(model, watch.some, learner),
    )


def _batch_ms(model: bytes, examples: Sequence[Example], learner: Learner) -> float:
    if not examples:
        return float("nan")
    inputs = encode([example.impression for example in examples], learner.spec, learner.tables)
    runtime, taken = session(model), []
    for _ in range(_RUNS):
        began = time.perf_counter()
        runtime.run([OUTPUT], dict(inputs))
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken))
