"""One publisher per model store on one machine: a lock on a file, gone with the process that holds it."""

import fcntl
from pathlib import Path
from typing import IO, Protocol


class Leadership(Protocol):
    """Who may publish; `FileLock` here, a Lease in a cluster."""

    def acquire(self) -> bool:
        """Try to become or stay the one; False while another is."""
        ...

    def release(self) -> None:
        """Let another one."""


class FileLock:
    """An advisory lock; the kernel gives it back when the holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

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
        self._file = file
        return True

    def release(self) -> None:
        """Give it back; harmless when it is not held."""
        if self._file is not None:
            self._file.close()
            self._file = None
