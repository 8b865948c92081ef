"""Two processes that share nothing but a folder: one asks, the other does what is asked and answers.

A question and its answer are files put in place by rename. They are found by listing the folder: a name that was
looked up and was not there may be remembered as not there by a network file system.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from services.common.errors import TemporaryError
from services.publisher.audit import Audit
from services.publisher.files import Disk
from services.publisher.lock import FileLock

POLL_S = 0.005
HERE, END = "here", "end"


class Other:
    """The other process, as the one that asks sees it."""

    def __init__(self, folder: Path, within_s: float) -> None:
        self.within_s = within_s
        self._folder, self._number = folder, 0
        self._open = self._gone = False

    def come(self, within_s: float) -> None:
        """Wait until it is there. Raises TemporaryError."""
        receive(self._folder, HERE, within_s)

    def ask(self, duty: str, path: Path, **about: Any) -> None:
        """Let it begin one of DUTIES with a path in the folder; `answer` waits for it.

        Raises TemporaryError when it does not answer the question before, which nobody waited for.
        """
        if self._open:
            self.answer()
        self._number += 1
        question = {"duty": duty, "path": str(path.relative_to(self._folder)), "about": about}
        send(self._folder, f"question-{self._number}", question)
        self._open = True

    def answer(self) -> Any:
        """What came of the last question. Raises TemporaryError when nothing did in time, or when it failed there."""
        if self._gone:
            raise TemporaryError("the other process does not answer any more")
        self._gone = True
        # It may use up its own time first, and then say what is missing.
        found = receive(self._folder, f"answer-{self._number}", 2 * self.within_s + 5)
        self._open = self._gone = False
        if "error" in found:
            raise TemporaryError(f"the other process: {found['error']}")
        return found["answer"]

    def end(self, result: Any = None) -> None:
        """Tell it how all went, so that it ends. Raises TemporaryError when it does not say that it heard."""
        self.ask(END, self._folder, result=result)
        self.answer()


def answer(folder: Path, within_s: float, idle_s: float) -> Any:
    """Be the other process until the end, and return the result that it is told. Raises TemporaryError after `idle_s`
    without a question."""
    send(folder, HERE, {})
    number = 0
    while True:
        number += 1
        question = receive(folder, f"question-{number}", idle_s)
        if question["duty"] == END:
            send(folder, f"answer-{number}", {"answer": None})
            return question["about"]["result"]
        try:
            done = DUTIES[question["duty"]](folder / question["path"], within_s, **question["about"])
            send(folder, f"answer-{number}", {"answer": done})
        except (OSError, TemporaryError) as error:
            send(folder, f"answer-{number}", {"error": str(error)})


@contextmanager
def started(target: Callable[..., Any], *arguments: Any) -> Iterator[BaseProcess]:
    """A process of its own that runs a function; it is gone at the end of the block."""
    process = get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def send(folder: Path, name: str, data: Mapping[str, Any]) -> None:
    """Put a message in place."""
    Disk().replace(folder / name, json.dumps(data).encode())


def receive(folder: Path, name: str, within_s: float) -> dict[str, Any]:
    """Wait for a message. Raises TemporaryError."""
    if not _until(lambda: name in os.listdir(folder), within_s):
        raise TemporaryError(f"no {name} from the other process in {within_s:g} s")
    found: dict[str, Any] = json.loads((folder / name).read_bytes())
    return found


def content(version: int, size: int) -> bytes:
    """A file that says of every 8 bytes which version they are of."""
    return version.to_bytes(8, "little") * (size // 8)


def version_of(data: bytes) -> int | None:
    """The version of a file of `content`; None when it is not whole.

    >>> version_of(content(7, 64)), version_of(content(7, 64) + content(8, 64)), version_of(b"")
    (7, None, None)
    """
    return int.from_bytes(data[:8], "little") if data and data == data[:8] * (len(data) // 8) else None


def _read(path: Path, within_s: float, last: int, size: int) -> dict[str, Any]:
    """Read a file that is being replaced, until it is the last version: how often, and what was wrong with it."""
    seen, faults = 0, dict.fromkeys(("torn", "absent", "older"), 0)
    newest = 0

    def done() -> bool:
        nonlocal seen, newest
        seen += 1
        try:
            data = path.read_bytes()
        except OSError:
            faults["absent"] += 1
            return False
        version = version_of(data) if len(data) == size else None
        faults["torn"] += version is None
        faults["older"] += version is not None and version < newest
        newest = max(newest, version or 0)
        return newest == last

    return {"last": _until(done, within_s), "readings": seen, "faults": faults}


def _list(path: Path, within_s: float) -> dict[str, int | None]:
    """Wait for a folder to appear; its files at that moment, and their versions."""
    if not _until(lambda: path.name in os.listdir(path.parent), within_s):
        raise TemporaryError(f"has not seen a new folder in {within_s:g} s")
    return {file.name: version_of(file.read_bytes()) for file in path.iterdir()}


def _lock(path: Path, within_s: float) -> bool:
    """Try to take a lock, and give it back."""
    lock = FileLock(path)
    held = lock.acquire()
    lock.release()
    return held


def _die(path: Path, within_s: float) -> bool:
    """Let a process take a lock and kill it; whether it had it."""
    with started(_hold, str(path)):
        return _until(lambda: not _lock(path, within_s), within_s)


def _hold(path: str) -> None:
    lock = FileLock(Path(path))
    while not lock.acquire():
        sleep(POLL_S)
    sleep(60)  # it is killed long before; nobody may be left to do it


def _append(path: Path, within_s: float, number: int) -> list[int]:
    """Wait for the line before, add one; numbers of all lines."""
    audit = Audit(path)
    if not _until(lambda: any(entry["at_us"] == number - 1 for entry in audit.entries()), within_s):
        raise TemporaryError(f"has not seen line {number - 1} in {within_s:g} s")
    audit.add(number, "checked")
    return [entry["at_us"] for entry in audit.entries()]


DUTIES: Mapping[str, Callable[..., Any]] = {
    "read": _read,
    "list": _list,
    "lock": _lock,
    "die": _die,
    "append": _append,
}


def _until(done: Callable[[], bool], within_s: float) -> bool:
    end = monotonic() + within_s
    while not done():
        if monotonic() > end:
            return False
        sleep(POLL_S)
    return True
