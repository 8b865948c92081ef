"""The folder of downloaded parts: whole or absent, whatever happens on the way."""

import io
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.errors import TemporaryError
from services.demo.cache import Cache, Progress


class Build:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, fails: bool = False) -> None:
        self.calls = 0
        self._fails = fails

    def __call__(self, part: Path) -> None:
        self.calls += 1
        (part / "lib").mkdir()
        (part / "lib" / "a.jar").write_bytes(b"a" * 2_000_000)
        if self._fails:
            raise TemporaryError("the line is down")
        (part / "tool").write_bytes(b"b" * 500_000)


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def cache(tmp_path: Path, said: io.StringIO) -> Cache:
    return Cache(tmp_path / "cache", Progress(said))


def test_a_part_is_built_once(cache: Cache) -> None:
    build = Build()
    first, second = cache.provide("kafka", "4", build), cache.provide("kafka", "4", build)
    assert first == second
    assert build.calls == 1
    assert (first / "tool").stat().st_size == 500_000


def test_another_version_is_another_part(cache: Cache) -> None:
    assert cache.provide("kafka", "4", Build()) != cache.provide("kafka", "5", Build())


def test_progress_shows_name_seconds_and_bytes(cache: Cache, said: io.StringIO) -> None:
    cache.provide("kafka", "4", Build())
    cache.provide("kafka", "4", Build())
    begins, fetched, present = said.getvalue().splitlines()
    assert begins.split() == ["kafka", "begins"]
    assert [fetched.split()[i] for i in (0, 2, 3, 4, 5)] == ["kafka", "s", "2.5", "MB", "fetched"]
    assert present.split()[0] == "kafka"
    assert present.split()[-1] == "present"


def test_a_terminal_sees_the_bytes_grow(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.painted = threading.Event()

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "2.0 MB" in text:
                self.painted.set()
            return super().write(text)

    terminal = Terminal()

    def build(part: Path) -> None:
        (part / "a.jar").write_bytes(b"a" * 2_000_000)
        assert terminal.painted.wait(10)

    Cache(tmp_path, Progress(terminal)).provide("kafka", "4", build)


def test_a_failed_build_leaves_nothing_and_can_be_tried_again(cache: Cache) -> None:
    with pytest.raises(TemporaryError):
        cache.provide("kafka", "4", Build(fails=True))
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]
    assert (cache.provide("kafka", "4", Build()) / "tool").exists()


def cut(part: Path) -> None:
    (part / "lib" / "a.jar").write_bytes(b"a")


def remove(part: Path) -> None:
    (part / "tool").unlink()


def unlist(part: Path) -> None:
    (part / "files.json").write_text('{"tool": ')


@pytest.mark.parametrize("damage", [cut, remove, unlist])
def test_a_damaged_part_is_built_again(cache: Cache, damage: Callable[[Path], None]) -> None:
    build = Build()
    damage(cache.provide("kafka", "4", build))
    part = cache.provide("kafka", "4", build)
    assert build.calls == 2
    assert (part / "lib" / "a.jar").stat().st_size == 2_000_000


def test_files_that_were_added_are_no_damage(cache: Cache) -> None:
    build = Build()
    (cache.provide("kafka", "4", build) / "tool.pyc").touch()
    cache.provide("kafka", "4", build)
    assert build.calls == 1


def test_what_a_killed_fetch_left_is_cleared(cache: Cache) -> None:
    left = cache.folder / ".staging-1" / "part"
    left.mkdir(parents=True)
    (left / "half.jar").touch()
    assert not (cache.provide("kafka", "4", Build()) / "half.jar").exists()
    assert not left.exists()


def test_two_at_once_build_once(tmp_path: Path) -> None:
    said, build = io.StringIO(), Build()

    def slow(part: Path) -> None:
        build(part)
        while "waiting" not in said.getvalue():
            pass

    both = [
        threading.Thread(target=Cache(tmp_path, Progress(said)).provide, args=("kafka", "4", slow)) for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(20)
    assert build.calls == 1
