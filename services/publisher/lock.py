"""Who leads: one publisher of an arm at a time, and what keeps one that no longer leads from changing anything.

A leader may be stopped at any instruction (a paused machine, a long collection) and go on when another one leads. So
it asks `check` before each change, its calls end before its leadership can, and what still comes late carries its
term: larger for each leader, and refused below the largest one seen.
"""

import fcntl
from pathlib import Path
from typing import IO, Protocol

from services.common.errors import NotOwner
from services.publisher.files import Disk


class Leadership(Protocol):
    """Who may publish; `FileLock` here, a Lease in a cluster."""

    term: int
    """Number of this leader among all; 0 before it leads."""

    def acquire(self) -> bool:
        """Try to become or stay the one; False while another is, and while nobody can say."""
        ...

    def held(self) -> bool:
        """Whether it surely leads now; asks nobody."""
        ...

    def lost(self) -> bool:
        """Whether it has led and another one was seen to lead since."""
        ...

    def above(self, term: int) -> None:
        """Make the own term larger than one that was seen: the counter of terms has been lost. Raises NotOwner."""

    def release(self) -> None:
        """Let another one."""


def check(leadership: Leadership) -> None:
    """Raises NotOwner when it is not sure that this publisher leads."""
    if not leadership.held():
        raise NotOwner("this publisher does not lead now")


class LeadersDisk(Disk):
    """Touches files only while this publisher leads."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def copy(self, source: Path, target: Path) -> None:
        """Copy one file. Raises NotOwner."""
        check(self._leadership)
        super().copy(source, target)

    def write(self, target: Path, data: bytes) -> None:
        """Write one file. Raises NotOwner."""
        check(self._leadership)
        super().write(target, data)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name. Raises NotOwner."""
        check(self._leadership)
        super().rename(source, target)


class FileLock:
    """An advisory lock; the kernel gives it back when the holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.term = 0

    def acquire(self) -> bool:
        """Take the lock or keep it; False while another process has it."""
        if self._file is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "wb")  # noqa: SIM115 - held until release
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file, self.term = file, 1
        return True

    def held(self) -> bool:
        """True from `acquire` to `release`: nobody takes it from a living process."""
        return self._file is not None

    def lost(self) -> bool:
        """Never."""
        return False

    def above(self, term: int) -> None:
        """Count on from a term that was seen."""
        self.term = max(self.term, term + 1)

    def release(self) -> None:
        """Give it back; harmless when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None
