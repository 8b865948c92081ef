"""The check of a model store: a real folder passes, and each thing that a file system may lack is found."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest

from services.cli.beside import receive, send
from services.cli.store_checks import Outcome, Ways, check_store
from services.publisher.audit import Audit
from services.publisher.files import Disk
from services.publisher.lock import FileLock
from tests.cli.fakes import run

ROOT = Path(__file__).parents[2]
ALL = ["write", "free", "layout", "other", "file", "folder", "sync", "lock", "append"]


def test_a_real_folder_does_all_of_it_and_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    ended = run("store", "check", str(tmp_path), "--free", "0", "--json")
    assert ended.code == 0
    assert [check["check"] for check in ended.json["checks"]] == ALL
    assert all(check["ok"] and check["ms"] >= 0 for check in ended.json["checks"])
    assert [path.name for path in tmp_path.iterdir()] == ["releases"]


def test_two_checks_of_one_name_check_together_and_say_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "store", "check", str(tmp_path), "--free", "0", "--json"]
    one, other = (
        subprocess.Popen([*command, "--beside", "pods"], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    said = [json.loads(process.communicate(timeout=120)[0]) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert said[0] == said[1]
    assert [check["check"] for check in said[0]["checks"]] == ALL
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_nothing_can_be_written_to_fails_without_more() -> None:
    ended = run("store", "check", "/proc", "--json")
    assert ended.code == 1
    assert [(check["check"], check["ok"]) for check in ended.json["checks"]] == [("write", False)]


def test_a_store_that_is_too_full_fails(tmp_path: Path) -> None:
    assert failed(tmp_path, Ways(), free_gib=1e9) == {"free"}


def test_a_folder_on_another_volume_is_found(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second volume here")
    (tmp_path / "triton").symlink_to(elsewhere)
    outcomes = check_store(tmp_path, free_gib=0)
    assert [(o.check, "triton" in o.sentence) for o in outcomes if not o.ok] == [("layout", True)]


class Copies(Disk):
    """A disk that renames as object stores do: part by part, which takes its time, file by file, over what is there."""

    def rename(self, source: Path, target: Path) -> None:
        if source.is_dir():
            target.mkdir(exist_ok=True)
            for file in sorted(source.iterdir()):
                self.rename(file, target / file.name)
            source.rmdir()
            return
        with open(source, "rb") as read, open(target, "wb") as write:
            while part := read.read(16 * 1024):
                write.write(part)
                write.flush()
                sleep(0.002)
        source.unlink()


class Replaces(Disk):
    """A disk on which a folder takes the place of another."""

    def rename(self, source: Path, target: Path) -> None:
        if target.is_dir():
            shutil.rmtree(target)
        super().rename(source, target)


class Unsynced(Disk):
    """A disk that cannot bring a folder down."""

    def sync_folder(self, folder: Path) -> None:
        raise OSError(22, "Invalid argument", str(folder))


class NoLocks(FileLock):
    """A lock that the file system takes no notice of."""

    def acquire(self) -> bool:
        return True


class Taken(FileLock):
    """A lock that a dead process keeps: nobody gets it any more."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._given = False

    def release(self) -> None:
        super().release()
        self._given = True

    def acquire(self) -> bool:
        return not self._given and super().acquire()


class Forgets(Audit):
    """Lines that never leave the process that adds them."""

    def add(self, now_us: int, decision: str, release: str = "", **more: Any) -> None:
        self._path.touch()


@pytest.mark.parametrize(
    ("ways", "lacks", "within_s"),
    [
        pytest.param(Ways(disk=Copies()), {"file", "folder"}, 10.0, id="renames that copy"),
        pytest.param(Ways(disk=Replaces()), {"folder"}, 10.0, id="a folder over another"),
        pytest.param(Ways(disk=Unsynced()), {"file", "folder", "sync"}, 0.5, id="no sync of folders"),
        pytest.param(Ways(lock=NoLocks), {"lock"}, 10.0, id="no locks"),
        pytest.param(Ways(lock=Taken), {"lock"}, 0.5, id="a lock that outlives its holder"),
        pytest.param(Ways(audit=Forgets), {"append"}, 0.5, id="lines that are not seen"),
    ],
)
def test_what_a_file_system_lacks_is_found(tmp_path: Path, ways: Ways, lacks: set[str], within_s: float) -> None:
    assert failed(tmp_path, ways, within_s=within_s) >= lacks
    assert list(tmp_path.iterdir()) == []


def failed(store: Path, ways: Ways, **more: Any) -> set[str]:
    outcomes = check_store(store, ways=ways, **{"free_gib": 0.0} | more)
    return {outcome.check for outcome in outcomes if not outcome.ok}


def test_a_lock_that_another_process_has_fails(tmp_path: Path) -> None:
    held = FileLock(tmp_path / "held")
    assert held.acquire()
    try:
        assert failed(tmp_path, Ways(lock=lambda path: FileLock(tmp_path / "held"))) == {"lock"}
    finally:
        held.release()


def beside(store: Path, come: Callable[[Path], None]) -> list[Outcome]:
    """A check whose other half is what `come` does in its folder."""
    folder = store / ".check-pods"
    found: list[list[Outcome]] = []
    asks = Thread(target=lambda: found.append(check_store(store, "pods", free_gib=0, within_s=0.2, come_s=0.5)))
    asks.start()
    while not folder.exists():
        pass
    come(folder)
    asks.join()
    return found[0]


def test_a_check_whose_other_half_never_comes_fails(tmp_path: Path) -> None:
    outcomes = beside(tmp_path, lambda folder: None)
    assert [o.check for o in outcomes if not o.ok] == ["other"]


def test_a_check_whose_other_half_goes_away_fails(tmp_path: Path) -> None:
    outcomes = beside(tmp_path, lambda folder: send(folder, "here", {}))
    assert {o.check for o in outcomes if not o.ok} >= {"file", "folder", "lock", "append"}


def test_a_half_that_nobody_asks_ends_with_three(tmp_path: Path) -> None:
    (tmp_path / ".check-pods").mkdir()
    ended = run("store", "check", str(tmp_path), "--beside", "pods", "--wait", "1")
    assert ended.code == 3
    assert "question-1" in ended.err
    assert receive(tmp_path / ".check-pods", "here", 1.0) == {}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["absent"], "STORE"), ([".", "--beside", "../up"], "--beside"), ([".", "--free", "-1"], "free")],
)
def test_bad_input_is_named(arguments: list[str], names: str) -> None:
    ended = run("store", "check", *arguments)
    assert ended.code == 2
    assert names in ended.err
