"""Small real stand-ins for what lies outside the publisher."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.models_pb2 import Route
from numpy.typing import NDArray

from services.common.errors import NotFound, PermanentError, TemporaryError
from services.publisher.book import Book, Lane
from services.publisher.checks import Verdict, holds, verdict
from services.publisher.compression.attempt import Attempt
from services.publisher.files import Disk
from services.publisher.manifest import Manifest
from services.publisher.onnx_file import OnnxModel
from services.publisher.pod import ServedStats
from services.publisher.table import Rows


class SmallTriton:
    """Loads what lies in a model folder, like Triton in explicit mode; `trouble` makes a call fail."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.models: dict[str, OnnxModel] = {}
        self.dead: set[str] = set()
        """Models whose process has died: ready says yes, infer fails until unload and load."""
        self.away = False
        self.refuses_loads = False
        self.loads: list[str] = []
        self.counts: dict[str, ServedStats] = {}
        self.off = 0.0
        """Added to every score: it says that it is ready, and lies."""
        self.marked: bool | None = None

    def load(self, release: str) -> None:
        self._reach()
        if self.refuses_loads:
            raise PermanentError("load refused")
        if release not in self.models:  # loading what is loaded does nothing, as in Triton
            if not (self._folder / release / "config.pbtxt").exists():
                raise PermanentError(f"no model {release}")
            self.models[release] = OnnxModel(self._folder / release / "1" / "model.onnx")
            self.loads.append(release)

    def unload(self, release: str) -> None:
        self._reach()
        self.models.pop(release, None)
        self.dead.discard(release)

    def loaded(self) -> set[str]:
        self._reach()
        return set(self.models)

    def infer(self, release: str, arrays: Mapping[str, NDArray[Any]], priority: int = 0) -> NDArray[np.float32]:
        self._reach()
        if release not in self.models:
            raise NotFound(release)
        if release in self.dead:
            raise PermanentError("its process is not healthy")
        output = self.models[release].outputs[0]
        return self.models[release].tensors([output], arrays)[output] + np.float32(self.off)

    def mark(self, ready: bool) -> None:
        self._reach()
        self.marked = ready

    def stats(self, release: str) -> ServedStats:
        self._reach()
        return self.counts.get(release, ServedStats())

    def restart(self) -> None:
        """Come back empty."""
        self.models.clear()
        self.marked = None

    def close(self) -> None:
        """Nothing is held."""

    def _reach(self) -> None:
        if self.away:
            raise TemporaryError("connection refused")


class World:
    """Judges as told, remembers what was said."""

    def __init__(self, judge: Callable[[Manifest], Verdict] = lambda m: verdict([holds("asked", True)])) -> None:
        self.verdict = judge
        self.routes: list[Route] = []
        self.told: list[Book] = []
        self.decisions: list[str] = []
        self.broker_down = False
        self.attempt: Callable[[Manifest], Attempt | None] = lambda manifest: None

    def judge(self, manifest: Manifest, row_seq: int) -> Verdict:
        return self.verdict(manifest)

    def compress(self, manifest: Manifest) -> Attempt | None:
        return self.attempt(manifest)

    def row_seq(self, manifest: Manifest) -> int:
        return manifest.seq

    def publish(self, route: Route) -> None:
        if self.broker_down:
            raise TemporaryError("no broker")
        self.routes.append(route)

    def tell_trainer(self, book: Book) -> None:
        self.told.append(book)

    def decided(self, decision: str, seconds: float) -> None:
        self.decisions.append(decision)


class CrashError(BaseException):
    """The process dies here."""


class BreakingDisk(Disk):
    """Dies at the n-th operation; what it was copying or writing is left half-made."""

    def __init__(self, after: int) -> None:
        self.left = after

    def copy(self, source: Path, target: Path) -> None:
        if self._dies():
            target.write_bytes(source.read_bytes()[:10])
            raise CrashError
        super().copy(source, target)

    def write(self, target: Path, data: bytes) -> None:
        if self._dies():
            target.write_bytes(data[: len(data) // 2])
            raise CrashError
        super().write(target, data)

    def rename(self, source: Path, target: Path) -> None:
        if self._dies():
            raise CrashError
        super().rename(source, target)

    def _dies(self) -> bool:
        self.left -= 1
        return self.left < 0


class FullDisk(Disk):
    """Has no room while it is full."""

    full = False

    def copy(self, source: Path, target: Path) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().copy(source, target)


class SmallRowStore:
    """The online store and the item topic as dictionaries, with epochs that can be lost."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], tuple[int, int, list[float]]] = {}
        """By slot, kind and id: epoch, sequence, row."""
        self.epochs: dict[str, int] = {}
        self.announced: list[tuple[str, str]] = []
        self.down = False

    def open(self, lane: Lane) -> None:
        self._reach()
        self.epochs[lane.slot] = max(lane.epoch, self.epochs.get(lane.slot, 0))

    def lost(self, lane: Lane) -> bool:
        self._reach()
        return lane.slot not in self.epochs

    def push(self, lane: Lane, items: Rows, users: Rows) -> bool:
        self.restore(lane, items, users)
        self.announced += [(lane.slot, row_id) for row_id in items.ids]
        return lane.slot in self.epochs

    def restore(self, lane: Lane, items: Rows, users: Rows) -> None:
        self._reach()
        for kind, rows in (("item", items), ("user", users)):
            for at, row_id in enumerate(rows.ids):
                place, order = (lane.slot, kind, row_id), (lane.epoch, int(rows.seqs[at]))
                if order >= self.rows.get(place, (0, 0, []))[:2] and lane.epoch >= self.epochs.get(lane.slot, 0):
                    self.rows[place] = (*order, rows.rows[at].tolist())

    def flush(self) -> None:
        """Lose everything."""
        self.rows.clear()
        self.epochs.clear()

    def _reach(self) -> None:
        if self.down:
            raise TemporaryError("no store")
