"""Steps taken again and again; one file per machine says who takes them."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.errors import NotOwner, PermanentError, TemporaryError
from services.publisher.book import Keeper
from services.publisher.lock import FileLock, LeadersDisk
from services.publisher.loop import LoopHealth, Loops


def test_a_step_that_fails_for_now_is_taken_again() -> None:
    faults: list[str] = []
    loops, again, calls = Loops(faults.append), threading.Event(), []

    def step() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise TemporaryError("away")
        again.set()

    loops.add("rows", step, 0.01)
    assert again.wait(5)
    loops.stop()
    assert faults == ["rows"]
    assert loops.failure is None


def test_a_step_that_fails_for_good_stops_all_of_them() -> None:
    loops = Loops(lambda _: None)

    def step() -> None:
        raise PermanentError("broken")

    loops.add("other", lambda: None, 0.01)
    loops.add("rows", step, 0.01)
    assert loops.stopped.wait(5)
    loops.stop()
    assert isinstance(loops.failure, PermanentError)


def test_a_step_that_hangs_is_not_alive() -> None:
    loops, go = Loops(lambda _: None), threading.Event()
    loops.add("rows", lambda: go.wait(5), 0.01)
    assert LoopHealth(loops, 60).live()
    assert not LoopHealth(loops, 0).live()
    go.set()
    loops.stop()


def test_only_one_holds_the_lock_and_leaves_it_when_it_is_gone(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.acquire()
    assert one.acquire()
    assert not other.acquire()
    one.release()
    assert other.acquire()
    other.release()


def test_without_leadership_no_step_is_begun() -> None:
    leads, taken = threading.Event(), threading.Event()
    loops = Loops(lambda _: None, leads.is_set)
    loops.add("rows", taken.set, 0.01)
    assert not taken.wait(0.1)
    leads.set()
    assert taken.wait(5)
    loops.stop()


def test_who_does_not_lead_any_more_changes_no_file(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    keeper = Keeper(tmp_path / "book.json", "main", LeadersDisk(lock))
    keeper.change(lambda book: replace(book, champion="r1"))
    lock.release()
    with pytest.raises(NotOwner):
        keeper.change(lambda book: replace(book, champion="r2"))
    assert Keeper(tmp_path / "book.json", "main").book.champion == "r1"
    assert keeper.book.champion == "r1"


def test_terms_of_a_file_go_on_from_the_largest_that_was_seen(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    lock.above(0)
    assert lock.term == 1
    lock.above(6)
    assert lock.term == 7
    lock.release()
