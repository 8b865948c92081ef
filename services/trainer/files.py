"""Files that are whole or not there: written beside their place, synced, renamed."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from services.trainer.hooks import Hooks

STAGING = ".staging-"
"""Start of the name of what is not finished; left-overs are removed at the next start."""


def write_file(path: Path, data: bytes, hooks: Hooks, what: str) -> None:
    """Put a file in place; passes the points `<what>.staged` and `<what>.renamed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(STAGING + path.name)
    _write_synced(staging, data)
    hooks.at(f"{what}.staged")
    staging.rename(path)
    sync_folder(path.parent)
    hooks.at(f"{what}.renamed")


def write_folder(path: Path, fill: Callable[[Path], None], hooks: Hooks, what: str) -> None:
    """Put a folder in place: `fill` writes its files into a staging folder. A folder of the same name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(STAGING + path.name)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    fill(staging)
    for file in staging.iterdir():
        sync_file(file)
    sync_folder(staging)
    hooks.at(f"{what}.staged")
    if path.exists():
        shutil.rmtree(path)
    staging.rename(path)
    sync_folder(path.parent)
    hooks.at(f"{what}.renamed")


def remove_staging(folder: Path) -> None:
    """Take away what a killed process left unfinished."""
    for path in folder.glob(f"{STAGING}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    sync_file(path)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Make what is written to a file, or into a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
