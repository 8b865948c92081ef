"""A full retrain: what it learns is what learning everything anew gives, and it is judged before it is kept."""

import json
import shutil
from pathlib import Path

import pytest

from services.common.errors import CorruptState, InvalidInput, NotFound
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.arm import ArmPaths
from services.trainer.checkpoint import Checkpoints
from services.trainer.factory import learner_of
from services.trainer.hooks import NoHooks
from services.trainer.retrain import MESSAGES, Retrain
from services.trainer.settings import TrainerSettings
from tests.trainer.arm import arm, digest, run, settings
from tests.trainer.world import SPEC, FileSource, Shop

LISTS = 500


def nothing(messages: int) -> None:
    """Nobody looks at the progress."""


def fresh(store: Path, **changes: object) -> TrainerSettings:
    return settings(store=store, arm="fresh", **changes)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arm that has learned some hundred lists, with its archive and three checkpoints."""
    store = tmp_path_factory.mktemp("store")
    source = FileSource({0: Shop(seed=1, users=6, items=20).messages(LISTS)})
    loop, clock = arm(store, source, archive=Archive(store / "arms" / "main" / "examples"))
    run(loop, clock, source)
    ArmPaths(store, "main").way.write_text(json.dumps(settings().way()))
    return store


@pytest.fixture
def store(learned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(learned, tmp_path / "store")


def test_it_is_what_learning_everything_anew_gives_bit_for_bit(store: Path) -> None:
    work = Retrain(fresh(store), "main")
    work.learn(nothing)
    work.compare(nothing)
    work.save()
    saved = Checkpoints(store / "arms" / "fresh" / "checkpoints", NoHooks()).newest()
    assert saved is not None
    restored = learner_of(fresh(store), SPEC, saved.meta["blocks"])
    restored.restore(saved.meta, saved.files, saved.rows)
    anew = learner_of(fresh(store), SPEC, None)
    rival = Checkpoints(store / "arms" / "main" / "checkpoints", NoHooks())
    middle = rival.load(rival.names()[0]).meta["positions"]
    ends = {int(p): offset for p, offset in middle.items()}
    rest = ArchiveSource(store / "arms" / "main" / "examples", MESSAGES)
    rest.seek(ends)
    for source in (ArchiveSource(store / "arms" / "main" / "examples", MESSAGES, ends=ends), rest):
        while (batch := source.poll()) is not None:
            anew.apply(batch)
    assert digest(restored) == digest(anew)
    assert restored.learned > LISTS


def test_both_are_judged_on_the_same_lists_that_neither_has_learned(store: Path) -> None:
    work = Retrain(fresh(store), "main")
    work.learn(nothing)
    found = work.compare(nothing)
    assert 0 < found.judged < LISTS
    assert found.metrics["ctr"] == found.metrics["champion_ctr"]
    assert found.metrics["auc"] == pytest.approx(found.metrics["champion_auc"], abs=0.05)
    assert found.metrics["auc"] > 0.6


def test_one_that_learns_nothing_is_told_from_one_that_does(store: Path) -> None:
    work = Retrain(fresh(store, learning_rate=1e-9, row_learning_rate=1e-9), "main")
    work.learn(nothing)
    found = work.compare(nothing)
    assert found.metrics["champion_auc"] - found.metrics["auc"] > 0.05


def test_the_new_arms_trainer_goes_on_where_the_archive_ends_and_pushes_every_row(store: Path) -> None:
    work = Retrain(fresh(store), "main")
    work.learn(nothing)
    work.compare(nothing)
    path = Path(work.save())
    saved = Checkpoints(path.parent, NoHooks()).newest()
    assert saved is not None
    assert saved.meta["rows_unpushed"]
    main = Checkpoints(store / "arms" / "main" / "checkpoints", NoHooks()).newest()
    assert main is not None
    assert saved.meta["positions"] == main.meta["positions"]


@pytest.mark.parametrize(
    ("name", "rival", "error"),
    [("main", "main", InvalidInput), ("main", "other", InvalidInput), ("fresh", "nobody", NotFound)],
)
def test_an_arm_that_is_there_is_never_overwritten(store: Path, name: str, rival: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Retrain(settings(store=store, arm=name), rival)


def test_without_an_archive_there_is_nothing_to_learn(store: Path) -> None:
    for path in (store / "arms" / "main" / "examples" / "0").glob("*"):
        path.unlink()
    with pytest.raises(CorruptState):
        Retrain(fresh(store), "main").learn(nothing)
