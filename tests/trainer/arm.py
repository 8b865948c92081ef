"""An arm of the trainer in a folder, run over a file of examples: in a test, or in a process that is killed."""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from services.common.clock import ManualClock
from services.common.spec import ModelSpec
from services.trainer.archive_writer import Archive
from services.trainer.arm import Arm, ArmPaths, Source
from services.trainer.factory import learner_of
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.learner import Learner
from services.trainer.loop import Loop, LoopConfig
from services.trainer.maintenance import Maintenance
from services.trainer.observe import Nobody
from services.trainer.settings import TrainerSettings
from services.trainer.slices import Hold
from services.trainer.triggers import Trigger, VolumeTrigger
from tests.trainer.world import SPEC, START_US, FileSource, read_logs

TURN_US = 300_000


class KillAt:
    """Ends the process for good at a point."""

    def __init__(self, point: str, times: int) -> None:
        self._point, self._left = point, times

    def at(self, point: str) -> None:
        self._left -= point == self._point
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Recorder(Nobody):
    """Remembers what happened."""

    def __init__(self) -> None:
        self.releases: list[str] = []
        self.deltas: list[int] = []
        self.holds: list[str] = []
        self.failures: list[tuple[str, Exception]] = []
        self.points: Counter[str] = Counter()

    def at(self, point: str) -> None:
        self.points[point] += 1

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        self.deltas.append(seq)

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        self.releases.append(name)

    def held(self, why: str) -> None:
        self.holds.append(why)

    def failed(self, what: str, error: Exception) -> None:
        self.failures.append((what, error))


def settings(**changes: object) -> TrainerSettings:
    """Small and quick."""
    values = {
        "row_dim": 4,
        "max_rows": 2_000,
        "batch_impressions": 1,
        "batch_items": 64,
        "retrieval_dim": 8,
        "warmup_impressions": 100,
        **changes,
    }
    return TrainerSettings(**values)  # type: ignore[arg-type]


def arm(
    store: Path,
    source: Source,
    *,
    trigger: Trigger | None = None,
    observer: Nobody | None = None,
    hooks: Hooks | None = None,
    wanted: Callable[[], ModelSpec] = lambda: SPEC,
    chosen: TrainerSettings | None = None,
    push_interval_us: int = 1_000_000,
    archive: Archive | None = None,
    hold: Hold | None = None,
    policy: Maintenance | None = None,
    start: Callable[[Learner], None] = lambda learner: None,
) -> tuple[Loop, ManualClock]:
    """A loop over a source, on a clock that the test moves."""
    torch.set_num_threads(1)  # sums keep their order
    clock = ManualClock(START_US)
    plain, points = chosen or settings(), hooks or NoHooks()
    state = Arm(
        ArmPaths(store, "main"),
        source,
        lambda spec, blocks: learner_of(plain, spec, blocks),
        wanted,
        points,
        archive=archive,
        start=start,
    )
    watcher = observer or Nobody()
    when = trigger or VolumeTrigger(40)
    loop = Loop(state, source, LoopConfig(push_interval_us), wanted, when, clock, watcher, points, hold, policy)
    return loop, clock


def run(loop: Loop, clock: ManualClock, source: FileSource) -> None:
    """To the end of the source, and down in good order."""
    while not source.done:
        loop.turn()
        clock.advance_to(clock.now_us() + TURN_US)
    loop.arm.close()


def digest(learner: Learner) -> str:
    """Hash of everything that learning has made: weights, statistics, optimiser, rows by id, positions."""
    h = hashlib.sha256()
    for name, value in sorted(learner.strategy.state().items()):
        h.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    for table in (learner.tables.item, learner.tables.user):
        live = np.flatnonzero(table.live)
        live = live[np.argsort(table.keys[live])]
        for array in (table.keys, table.rows, table.squares, table.seen_us):
            h.update(array[live].tobytes())
        h.update(repr(table.ids.get(live)).encode() + table.sketch.counts.tobytes())
    h.update(
        repr((sorted(learner.positions.items()), learner.steps, learner.learned, learner.learned_up_to_us)).encode()
    )
    h.update(repr(learner.progress.metrics()).encode())
    return h.hexdigest()


def main(arguments: Sequence[str]) -> None:
    """<store> <logs.json> [<point> <times>]: run to the end and leave the digest in the store.

    With a point, the process kills itself (SIGKILL) when it passes it that many times.
    """
    torch.set_num_threads(1)
    store, logs = Path(arguments[0]), read_logs(Path(arguments[1]))
    hooks = KillAt(arguments[2], int(arguments[3])) if len(arguments) > 2 else NoHooks()
    source = FileSource(logs)
    loop, clock = arm(store, source, hooks=hooks)
    run(loop, clock, source)
    (store / "digest").write_text(digest(loop.arm.learner))
