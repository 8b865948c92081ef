"""A smaller model taught by a checkpoint: what it learns, what it costs, and what becomes of it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import Conflict, InvalidInput
from services.trainer.app import begin
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.arm import Arm, ArmPaths
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.evaluation.students import Graduation, Lesson, _teacher, teach
from services.trainer.factory import learner_of
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.scores import logit
from services.trainer.settings import TrainerSettings
from tests.cli.fakes import run as command
from tests.trainer.arm import arm, run, settings
from tests.trainer.strategies.shop import learner, step_of
from tests.trainer.world import SPEC, FileSource, Shop

SMALL = {"model": "din", "hidden": "[8,4]", "row_dim": "2", "max_rows": "2000", "admission": "1", "retrieval_dim": "8"}
QUICK = {"batch_impressions": "1", "batch_items": "64", "warmup_impressions": "100"}


@dataclass(frozen=True)
class School:
    """A teacher that has learned the first half of what is in the archive."""

    examples: Path
    checkpoint: Path
    learner: Learner


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    folder = tmp_path_factory.mktemp("school")
    messages = Shop(seed=3, items=20).messages(320)
    source = FileSource({0: messages[:220]})
    loop, clock = arm(folder, source, chosen=settings(admission=1))
    run(loop, clock, source)
    archive = Archive(folder / "examples")
    whole = FileSource({0: messages}, sizes=(50,))
    whole.seek({})
    while (batch := whole.poll(0)) is not None and batch.ranges:
        archive.add(batch)
    archive.describe(SPEC)
    archive.flush()
    return School(folder / "examples", loop.arm._checkpoints.path(loop.arm.name), loop.arm.learner)


def student(store: Path, **changes: str) -> TrainerSettings:
    return Trial("student", {**SMALL, **QUICK, "store": str(store), "arm": "small", **changes}).settings()


@pytest.fixture(scope="module")
def graduation(school: School, tmp_path_factory: pytest.TempPathFactory) -> Graduation:
    store = tmp_path_factory.mktemp("students")
    return teach(Lesson(school.examples, school.checkpoint, share=0.9, temperature=2, tail=0.25), student(store))


def test_a_checkpoint_teaches_what_its_learner_scores(school: School) -> None:
    """On its own rows and weights, whatever rows the student has."""
    teacher, pupil = _teacher(school.checkpoint), learner()
    step = step_of(Shop(seed=3, items=20).messages(10))
    theirs = teacher.scores(pupil.encode(step.initial), pupil.spec, pupil.tables)
    expected = school.learner.scores(school.learner.encode(step.initial))
    np.testing.assert_allclose(theirs[:, :, 0], expected, rtol=1e-4, atol=1e-6)


def test_the_student_is_smaller_and_judged_beside_its_teacher(graduation: Graduation) -> None:
    teacher, distilled, alone = graduation.teacher, graduation.distilled, graduation.alone
    assert distilled.weights == alone.weights < 0.3 * teacher.weights
    assert distilled.onnx_bytes < 0.6 * teacher.onnx_bytes
    assert (teacher.row_dim, distilled.row_dim) == (4, 2)
    assert teacher.auc.lists == distilled.auc.lists == alone.auc.lists == 80
    assert min(distilled.auc.value, alone.auc.value) > 0.6
    assert distilled.batch_ms > 0
    assert not graduation.teacher_knew


def test_a_student_scores_as_its_teacher_more_than_one_that_is_not_taught(school: School, tmp_path: Path) -> None:
    apart = []
    step = step_of(Shop(seed=3, items=20).messages(20))
    expected = logit(school.learner.scores(school.learner.encode(step.initial)))
    for share in (1.0, 0.0):
        lesson = Lesson(school.examples, school.checkpoint, share=share, epochs=2, tail=0.25)
        found = teach(lesson, student(tmp_path / str(share)))
        made = _teacher(Path(found.checkpoint)).learner
        apart.append(float(np.abs(logit(made.scores(made.encode(step.initial))) - expected).mean()))
    assert apart[0] < 0.8 * apart[1]


def test_what_is_untaught_is_the_student_with_no_share_of_the_teacher(school: School, tmp_path: Path) -> None:
    found = teach(Lesson(school.examples, school.checkpoint, share=0.0, tail=0.25), student(tmp_path))
    assert found.distilled.auc == found.alone.auc
    assert found.distilled.log_loss == found.alone.log_loss


def test_an_arm_goes_on_from_the_student_and_another_one_takes_it(school: School, graduation: Graduation) -> None:
    checkpoint = Path(graduation.checkpoint)
    chosen = student(checkpoint.parents[3])
    source, paths = ArchiveSource(school.examples), ArmPaths(chosen.store, chosen.arm)
    spec = replace(SPEC, row_dim=2)
    going_on = Arm(paths, source, lambda s, blocks: learner_of(chosen, s, blocks), lambda: spec, NoHooks())
    assert going_on.learner.positions == {0: 240}
    batch = source.poll()
    assert batch is not None
    before = going_on.learner.learned
    assert going_on.learn(batch)
    assert going_on.learner.learned > before
    going_on.close()
    other = learner_of(chosen, spec, None)
    begin(chosen.model_copy(update={"transfer_from": checkpoint}), other)
    assert len(other.tables.item) == 20


def test_what_cannot_be_taught_is_refused(school: School, graduation: Graduation, tmp_path: Path) -> None:
    lesson = Lesson(school.examples, school.checkpoint)
    with pytest.raises(Conflict, match="the arm small has checkpoints"):
        teach(lesson, student(Path(graduation.checkpoint).parents[3]))
    with pytest.raises(InvalidInput, match="teacher: .* is no checkpoint"):
        teach(Lesson(school.examples, tmp_path), student(tmp_path))
    one = student(tmp_path).model_copy(update={"loss_weights": {"click": 1.0}})
    with pytest.raises(InvalidInput, match="the heads click, cart, purchase"):
        teach(lesson, one)


def test_the_command_says_what_teacher_and_students_are_worth(school: School, tmp_path: Path) -> None:
    ended = command(
        *("distil", str(school.examples), str(school.checkpoint), "--arm", "tiny", "--share", "0.7", "--tail", "0.25"),
        *("--student", "model=logistic; row_dim=2; max_rows=2000; admission=1; retrieval_dim=8", "--json"),
        env={"FRESHRANK_STORE": str(tmp_path)},
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["distilled"]["weights"] < found["teacher"]["weights"]
    assert (tmp_path / "arms" / "tiny" / "checkpoints" / "1-1" / "state.json").exists()


def test_a_student_that_cannot_be_names_the_option(school: School) -> None:
    ended = command(
        *("distil", str(school.examples), str(school.checkpoint), "--arm", "tiny", "--student", "hidden=[0,1]")
    )
    assert ended.code == 2
    assert "--student: student: hidden" in ended.err
