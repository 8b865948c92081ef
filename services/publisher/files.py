"""Writes that survive a crash: what has its final name is whole.

`Disk` is the one place that touches files on the way to a release, so a test can let it fail at every step.
"""

import hashlib
import os
import shutil
from pathlib import Path


class Disk:
    """Copies, writes and renames, each durable when it returns."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy one file and bring it to disk."""
        with open(source, "rb") as read, open(target, "wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())

    def write(self, target: Path, data: bytes) -> None:
        """Write one new file and bring it to disk."""
        with open(target, "wb") as write:
            write.write(data)
            write.flush()
            os.fsync(write.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder its final name; its folder's entry is on disk afterwards."""
        os.rename(source, target)
        self.sync_folder(target.parent)

    def sync_folder(self, folder: Path) -> None:
        """Bring the entries of a folder to disk."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, target: Path, data: bytes) -> None:
        """Put a whole file in the place of another, or of none."""
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{target.name}.new")
        self.write(staged, data)
        self.rename(staged, target)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
