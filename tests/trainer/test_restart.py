"""A trainer that is killed anywhere ends with the same weights, bit for bit."""

import multiprocessing
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from services.trainer import journal
from services.trainer.hooks import POINTS
from tests.trainer.arm import arm, digest, main, run
from tests.trainer.world import FileSource, Shop, read_logs, write_logs


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "logs.json"
    shop = Shop(seed=3, items=20, listed=6)
    write_logs(path, {0: shop.messages(40), 1: shop.messages(30)})
    return path


@pytest.fixture(scope="module")
def undisturbed(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    source = FileSource(read_logs(logs))
    loop, clock = arm(tmp_path_factory.mktemp("whole"), source)
    run(loop, clock, source)
    return digest(loop.arm.learner)


def process(store: Path, logs: Path, *kill: str) -> int | None:
    """A trainer in a process of its own; its exit code. Forked from a server that has torch loaded: quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.arm"])
    child = context.Process(target=main, args=((str(store), str(logs), *kill),))
    child.start()
    child.join(60)
    code = child.exitcode
    child.close()
    return code


@pytest.mark.parametrize("times", ["1", "2"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_it_ends_bit_equal(
    point: str, times: str, logs: Path, undisturbed: str, tmp_path: Path
) -> None:
    assert process(tmp_path, logs, point, times) == -signal.SIGKILL
    assert process(tmp_path, logs) == 0
    assert (tmp_path / "digest").read_text() == undisturbed
    assert not list(tmp_path.rglob(".staging-*"))


def test_killed_again_and_again_it_ends_bit_equal(logs: Path, undisturbed: str, tmp_path: Path) -> None:
    for point in ("batch.learned", "batch.journaled", "delta.renamed"):
        assert process(tmp_path, logs, point, "3") == -signal.SIGKILL
    assert process(tmp_path, logs) == 0
    assert (tmp_path / "digest").read_text() == undisturbed


def test_without_the_journal_other_batches_give_other_weights(logs: Path, undisturbed: str, tmp_path: Path) -> None:
    store, other = tmp_path / "kept", tmp_path / "lost"
    assert process(store, logs, "batch.learned", "14") == -signal.SIGKILL
    shutil.copytree(store, other)
    last = [record for record in journal.read((store / "arms/main/checkpoints").iterdir()) if record.ranges][-1]
    learned = sum(end for _, end in last.ranges.values())
    for path in other.rglob(journal.NAME):
        path.unlink()
    same = []
    for folder in (store, other):
        source = OtherCutsFirst(read_logs(logs), learned)
        loop, clock = arm(folder, source)
        run(loop, clock, source)
        same.append(digest(loop.arm.learner) == undisturbed)
    assert same == [True, False]


class OtherCutsFirst(FileSource):
    """As a broker does: what was read before comes in other amounts after a restart."""

    def __init__(self, logs: Mapping[int, Sequence[bytes]], until: int) -> None:
        super().__init__(logs)
        self._until = until

    def size(self) -> int:
        return 1 if sum(self._at.values()) < self._until else super().size()


def test_sequences_of_deltas_never_come_twice(logs: Path, tmp_path: Path) -> None:
    assert process(tmp_path, logs, "delta.renamed", "4") == -signal.SIGKILL
    folder = tmp_path / "arms/main/deltas"
    before = {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()  # the publisher has pushed them
    assert process(tmp_path, logs) == 0
    assert before.isdisjoint(path.name for path in folder.iterdir())
