"""Settings searched on what is older, judged on what is newer."""

from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.evaluation.tuning import Dimension, tune
from services.trainer.examples import Batch
from tests.cli.fakes import run as command
from tests.trainer.evaluation.test_rehearsal import SMALL
from tests.trainer.world import SPEC, Shop


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    archive = Archive(folder)
    messages = Shop(seed=3, items=20).messages(160)
    archive.add(Batch({0: (100, 100 + len(messages))}, {0: messages}))
    archive.describe(SPEC)
    archive.flush()
    return folder


def test_the_older_part_of_an_archive_ends_where_it_should(examples: Path) -> None:
    source = ArchiveSource(examples, messages=7, until=0.25)
    taken = 0
    while (batch := source.poll()) is not None:
        taken += len(batch.messages[0])
    assert taken == source.messages == 40


def test_a_search_finds_the_rate_that_learns_and_goes_on_from_its_journal(examples: Path, tmp_path: Path) -> None:
    space, journal = [Dimension("learning_rate", values=("0.0000001", "0.01"))], tmp_path / "journal"
    changes = {**SMALL, "row_learning_rate": 1e-6}
    first = tune(examples, space, journal, trials=2, until=0.6, goal="log_loss", base=changes)
    done: list[int] = []
    again = tune(
        examples, space, journal, 5, 0.6, "log_loss", {**changes, "learning_rate": 1e-7}, lambda n, _: done.append(n)
    )
    assert (first.trials, again.trials, done) == (2, 5, [3, 4, 5])
    assert again.best == {"learning_rate": "0.01"}
    assert again.later.value < again.before.value
    assert again.difference.lower > 0
    assert again.later.lists == pytest.approx(0.4 * 160, abs=2)


@pytest.mark.parametrize("text", ["learning_rate", "learning_rate=0..1", "learning_rate=2..1", "=1|2", "rate=1e..2"])
def test_a_space_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="space"):
        Dimension.parse(text)


@pytest.mark.parametrize("text", ["taste=1|2", "row_dropout=0|2", "learning_rate=0.1..100"])
def test_settings_that_cannot_be_are_refused_before_anything_is_tried(
    text: str, examples: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=text.partition("=")[0]):
        tune(examples, [Dimension.parse(text)], tmp_path / "journal", 1, 0.5)


def test_the_command_tells_what_was_found(examples: Path, tmp_path: Path) -> None:
    ended = command(
        *("tune", str(examples), "--space", "row_dropout=0|0.2", "--trials", "2", "--journal", str(tmp_path / "j")),
        env={f"FRESHRANK_TRAINER_{name.upper()}": str(value) for name, value in SMALL.items()},
    )
    assert ended.code == 0, ended.err
    assert "FRESHRANK_TRAINER_ROW_DROPOUT" in ended.out
    assert "better by, 95 %" in ended.out
    assert command("tune", str(tmp_path / "no")).code == 2
