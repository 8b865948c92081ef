"""What Freshrank relies on of the file system under its model store, proved with the code that relies on it.

Each check needs a second process: one on this machine, or one on another node (`beside`).
"""

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from services.cli.beside import POLL_S, Other, answer, content, started, version_of
from services.common.errors import Conflict, FreshrankError, TemporaryError
from services.publisher.audit import Audit
from services.publisher.files import Disk
from services.publisher.lock import FileLock

PREFIX = ".check-"
SIZE = 256 * 1024
TIMES = 20
PARTS = tuple(f"part-{number}" for number in range(16))
"""Files of a folder: where it comes file by file, enough to be seen at it."""
ROUNDS = 3
WITHIN_S = 10.0
"""For a process to see what another did: below the 15 s after which a publisher follows one that was killed."""
COME_S = 300.0
"""For the other process to come: pods begin when their images are there."""


@dataclass(frozen=True)
class Outcome:
    """One check: what it is about, whether it holds, what it took, and why."""

    check: str
    ok: bool
    ms: float
    sentence: str


@dataclass(frozen=True)
class Ways:
    """How the store is touched."""

    disk: Disk = field(default_factory=Disk)
    lock: Callable[[Path], FileLock] = FileLock
    audit: Callable[[Path], Audit] = Audit


Check = Callable[[Path, Other, Ways], tuple[float, str]]
"""Returns milliseconds of what matters in it and a sentence. Raises Conflict where the store does not do it."""


def check_store(
    store: Path, beside: str = "", *, free_gib: float = 1.0, within_s: float = WITHIN_S, come_s: float = COME_S,
    ways: Ways | None = None,
) -> list[Outcome]:  # fmt: skip
    """Check a store with a process of its own beside this one, or with one that gives the same name elsewhere.

    Whichever of the two is first asks, the other answers; both return the same. Raises TemporaryError in the one that
    answers when nobody asks.
    """
    folder = store / f"{PREFIX}{beside or uuid.uuid4().hex}"
    began = monotonic()
    try:
        folder.mkdir()
    except OSError as error:
        if beside and isinstance(error, FileExistsError):
            return [Outcome(**outcome) for outcome in answer(folder, within_s, come_s)]
        return [Outcome("write", False, _ms(began), f"nothing can be written here: {error.strerror}")]
    found = [Outcome("write", True, _ms(began), "a folder can be made")]
    found += [_outcome("free", lambda: _free(store, free_gib)), _outcome("layout", lambda: _layout(store))]
    other = Other(folder, within_s)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        if not beside:
            undo.enter_context(started(answer, folder, within_s, come_s))
        came = _outcome("other", lambda: _come(other, come_s, beside))
        found.append(came)
        if came.ok:
            found += [_outcome(name, partial(check, folder, other, ways or Ways())) for name, check in CHECKS.items()]
            try:
                other.end(described(found))
            except TemporaryError as error:
                found.append(Outcome("end", False, 0.0, str(error)))
    return found


def _come(other: Other, come_s: float, beside: str) -> tuple[float, str]:
    began = monotonic()
    other.come(come_s)
    return _ms(began), "a second process is there, elsewhere" if beside else "a second process is there"


def _free(store: Path, free_gib: float) -> tuple[float, str]:
    began = monotonic()
    found = os.statvfs(store)
    took, gib = _ms(began), found.f_bavail * found.f_frsize / 2**30
    if gib < free_gib:
        raise Conflict(f"{gib:,.1f} GiB are free, less than {free_gib:,.1f}")
    return took, f"{gib:,.1f} GiB are free"


def _layout(store: Path) -> tuple[float, str]:
    """Releases go by rename from one folder of the store into another, so none may be a mount of its own."""
    began = monotonic()
    folders = sorted(path for path in store.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in folders:
        try:
            # The kernel compares the mounts before it looks for the name, which is not there.
            os.rename(store / f"{PREFIX}nothing", folder / f"{PREFIX}nothing")
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise Conflict(f"{folder.name} lies on another volume: nothing can be renamed into it") from error
            raise
    return _ms(began), f"one volume, {len(folders)} folders"


def _file(folder: Path, other: Other, ways: Ways) -> tuple[float, str]:
    """A file that is replaced is whole for who reads it, at any time, and the new one is seen."""
    path = folder / "file"
    ways.disk.replace(path, content(1, SIZE))
    other.ask("read", path, last=TIMES + 1, size=SIZE)
    began = monotonic()
    for version in range(2, TIMES + 2):
        ways.disk.replace(path, content(version, SIZE))
    took, put = _ms(began) / TIMES, monotonic()
    found = other.answer()
    seen, faults = _ms(put), {name: count for name, count in found["faults"].items() if count}
    if faults:
        words = ", ".join(f"{count} {name}" for name, count in faults.items())
        raise Conflict(f"of {found['readings']} readings by the other process while it was replaced: {words}")
    if not found["last"]:
        raise Conflict("the other process still reads a file that was replaced")
    return took, f"{TIMES} replacements, {found['readings']} readings, all whole; the last one seen after {seen:.0f} ms"


def _folder(folder: Path, other: Other, ways: Ways) -> tuple[float, str]:
    """A folder comes with all its files at once, and not where there is one."""
    whole, took = dict.fromkeys(PARTS, 1), 0.0
    for number in range(ROUNDS):
        target = folder / f"folder-{number}"
        staged = _staged(folder, 1, ways)
        other.ask("list", target)
        began = monotonic()
        ways.disk.rename(staged, target)
        took += _ms(began) / ROUNDS
        if (found := other.answer()) != whole:
            raise Conflict(f"the other process saw a new folder with {len(found)} of {len(PARTS)} files, or not whole")
    try:
        ways.disk.rename(_staged(folder, 2, ways), target)
    except OSError:
        if {file.name: version_of(file.read_bytes()) for file in target.iterdir()} != whole:
            raise Conflict("a folder that was refused has changed the one before") from None
        return took, "all files come at once; where there is a folder of its name, it is refused"
    raise Conflict("a folder was renamed over another one, which is to be refused")


def _staged(folder: Path, version: int, ways: Ways) -> Path:
    staged = folder / "staged"
    staged.mkdir()
    for name in PARTS:
        ways.disk.write(staged / name, content(version, 4096))
    ways.disk.sync_folder(staged)
    return staged


def _sync(folder: Path, other: Other, ways: Ways) -> tuple[float, str]:
    """Files and folders can be brought to disk; whether they are is the store's word."""
    began = monotonic()
    for number in range(5):
        ways.disk.write(folder / f"synced-{number}", content(1, SIZE))
    file, began = _ms(began) / 5, monotonic()
    for _ in range(5):
        ways.disk.sync_folder(folder)
    return file, f"a file of {SIZE // 1024} KiB is synced in {file:.1f} ms, a folder in {_ms(began) / 5:.1f} ms"


def _lock(folder: Path, other: Other, ways: Ways) -> tuple[float, str]:
    """One process has the lock, and its death gives it back."""
    path = folder / "lock"
    lock = ways.lock(path)
    if not lock.acquire():
        raise Conflict("the lock cannot be taken though nobody has it")
    try:
        other.ask("lock", path)
        if other.answer():
            raise Conflict("two processes hold the lock at once")
    finally:
        lock.release()
    other.ask("die", path)
    if not other.answer():
        raise Conflict("a lock that was given back cannot be taken by the other process")
    began = monotonic()
    while not lock.acquire():
        if monotonic() - began > other.within_s:
            raise Conflict(f"the lock of a process that was killed is not free after {other.within_s:g} s")
        sleep(POLL_S)
    took = _ms(began)
    lock.release()
    return took, "the other process is kept out; the lock of one that was killed is free"


def _append(folder: Path, other: Other, ways: Ways) -> tuple[float, str]:
    """Lines that two processes add in turn are all there, in their order."""
    path, took = folder / "lines", 0.0
    audit = ways.audit(path)
    for number in range(1, TIMES, 2):
        began = monotonic()
        audit.add(number, "checked")
        took += _ms(began) / (TIMES // 2)
        other.ask("append", path, number=number + 1)
        found = other.answer()
        if found != list(range(1, number + 2)):
            raise Conflict(f"of {number + 1} lines that two processes added in turn, {len(found)} are there")
    return took, f"{TIMES} lines by two processes in turn, each seen by the other, all there"


CHECKS: dict[str, Check] = {"file": _file, "folder": _folder, "sync": _sync, "lock": _lock, "append": _append}


def _outcome(name: str, check: Callable[[], tuple[float, str]]) -> Outcome:
    began = monotonic()
    try:
        took, sentence = check()
    except OSError as error:
        return Outcome(name, False, _ms(began), f"{error.strerror}: {Path(error.filename or '').name}".rstrip(": "))
    except FreshrankError as error:
        return Outcome(name, False, _ms(began), str(error))
    return Outcome(name, True, took, sentence)


def _ms(began: float) -> float:
    return round((monotonic() - began) * 1000, 2)


def passed(outcomes: list[Outcome]) -> bool:
    """Whether all hold."""
    return all(outcome.ok for outcome in outcomes)


def described(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """As plain data."""
    return [asdict(outcome) for outcome in outcomes]
