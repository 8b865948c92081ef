"""Kept releases ready to be asked: manifest, session and golden requests, read once."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from services.publisher import golden, manifest
from services.publisher.golden import Golden
from services.publisher.manifest import GOLDEN, MODEL, Manifest
from services.publisher.onnx_file import OnnxModel

_OPEN = 4


@dataclass(frozen=True)
class Opened:
    """One release in memory."""

    manifest: Manifest
    model: OnnxModel
    golden: Golden


def opened(folder: Path) -> Opened:
    """Open a release's folder. Raises CorruptState when a part of it is not what it should be."""
    found = manifest.read(folder)
    requests = golden.read(folder / GOLDEN, found.spec, found.golden_tolerance)
    return Opened(found, OnnxModel(folder / MODEL), requests)


class Shelf:
    """The last few opened releases of one folder; safe for several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, release: str) -> Opened:
        """A kept release. Raises CorruptState."""
        with self._lock:
            if release not in self._open:
                self._open[release] = opened(self._folder / release)
            self._open.move_to_end(release)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return self._open[release]

    def forget(self, release: str) -> None:
        """Read it anew the next time: its folder is gone, or will hold other files."""
        with self._lock:
            self._open.pop(release, None)
