"""A folder of downloaded parts, each whole or absent.

A part is built in a staging folder and renamed into place, so a crash or a full disk leaves no half of it; its files
and sizes are listed beside it and compared on each use, so a damaged part is fetched again. One process fetches at a
time; the others wait for its lock and find the part.
"""

import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_LISTING = "files.json"
_STAGING = ".staging"
_REFRESH_SECONDS = 0.5
_MB = 1e6


def default_folder(environment: Mapping[str, str]) -> Path:
    """FRESHRANK_CACHE, or `freshrank` in the user's cache folder.

    >>> default_folder({"FRESHRANK_CACHE": "/srv/parts"}), default_folder({"XDG_CACHE_HOME": "/var/cache/me"})
    (PosixPath('/srv/parts'), PosixPath('/var/cache/me/freshrank'))
    """
    if chosen := environment.get("FRESHRANK_CACHE"):
        return Path(chosen).expanduser()
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "freshrank"


class Progress:
    """One line per step with its name, seconds and bytes; on a terminal the line moves while it works."""

    def __init__(self, stream: TextIO = sys.stderr, show_present: bool = True) -> None:
        """Write to `stream`; `show_present` false leaves out what was there already."""
        self._stream = stream
        self._show_present = show_present

    @contextmanager
    def step(self, name: str, watched: Path) -> Iterator[None]:
        """Show the size of folder `watched` growing until the block ends."""
        began, done = time.monotonic(), threading.Event()
        painter = threading.Thread(target=self._paint, args=(name, watched, began, done), daemon=True)
        if self._stream.isatty():
            painter.start()
        else:
            self._write(f"{name:<24} begins\n")
        try:
            yield
            size = folder_size(watched)
        except BaseException:
            self._end(done, painter, f"{name:<24} failed after {time.monotonic() - began:.1f} s\n")
            raise
        self._end(done, painter, self._line(name, size, began, "fetched") + "\n")

    def present(self, name: str, size: int) -> None:
        """Say that nothing had to be done."""
        if self._show_present:
            self._write(self._line(name, size, time.monotonic(), "present") + "\n")

    def say(self, sentence: str) -> None:
        """Write a line."""
        self._write(sentence + "\n")

    def _paint(self, name: str, watched: Path, began: float, done: threading.Event) -> None:
        while not done.wait(_REFRESH_SECONDS):
            self._write("\r" + self._line(name, folder_size(watched), began, "..."))

    def _end(self, done: threading.Event, painter: threading.Thread, line: str) -> None:
        done.set()
        if painter.is_alive():
            painter.join()
        self._write("\r" * self._stream.isatty() + line)

    def _line(self, name: str, size: int, began: float, state: str) -> str:
        return f"{name:<24}{time.monotonic() - began:7.1f} s {size / _MB:8.1f} MB  {state}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Cache:
    """The parts under one folder."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self._progress = progress

    def provide(self, name: str, version: str, build: Callable[[Path], None]) -> Path:
        """The folder of the part, built by `build(empty folder)` when it is absent or damaged.

        Whatever `build` raises passes through and leaves the cache as it was.
        """
        final = self.folder / f"{name}-{version}"
        if (size := _complete(final)) is None:
            with self._locked():
                if (size := _complete(final)) is None:
                    self._build(name, final, build)
                    return final
        self._progress.present(name, size)
        return final

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.say("another process is fetching; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, name: str, final: Path, build: Callable[[Path], None]) -> None:
        # Whoever held the lock before may have been killed; what it had started may still write to its own folder.
        for left in self.folder.glob(f"{_STAGING}-*"):
            shutil.rmtree(left, ignore_errors=True)
        staging = self.folder / f"{_STAGING}-{os.getpid()}"
        part = staging / "part"
        part.mkdir(parents=True)
        try:
            with self._progress.step(name, staging):
                build(part)
            _list(part)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(part, final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                yield os.path.relpath(path, folder), os.lstat(path).st_size
            except FileNotFoundError:
                continue  # It was a temporary file of the download that is being watched.


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`, which may be changing."""
    return sum(size for _, size in _files(folder))


def _list(part: Path) -> None:
    sizes = dict(_files(part))
    with open(part / _LISTING, "w") as listing:
        json.dump(sizes, listing, indent=0, sort_keys=True)
        listing.flush()
        os.fsync(listing.fileno())


def _complete(final: Path) -> int | None:
    """Bytes of the part, or None when it is absent or a file is missing, cut or has grown."""
    try:
        expected: dict[str, int] = json.loads((final / _LISTING).read_text())
    except (OSError, ValueError):
        return None
    found = dict(_files(final))
    # More files are no damage: Python writes its compiled modules beside the sources.
    return sum(expected.values()) if all(found.get(name) == size for name, size in expected.items()) else None
