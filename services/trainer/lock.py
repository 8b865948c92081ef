"""One trainer per arm on a machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.errors import TemporaryError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the arm's lock. Raises TemporaryError when another trainer of this machine has it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "trainer.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise TemporaryError(f"another trainer works on {folder.name}") from error
    try:
        yield
    finally:
        os.close(handle)
