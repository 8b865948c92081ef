"""Experiment trackers beside TensorBoard: MLflow and Weights & Biases, as a setting names them.

    FRESHRANK_TRAINER_TRACKERS='mlflow("http://mlflow:5000", "freshrank"), wandb("freshrank", offline)'

A tracker is a server that somebody else runs: it works on a thread of its own, and when it fails or is slow,
learning goes on without it. Each is imported when it is used, from the extra `tracking`.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, ClassVar, Protocol

from services.common.clock import Clock, WallClock
from services.common.errors import InvalidInput, Overloaded
from services.trainer import calls
from services.trainer.calls import Text, Way, Word
from services.trainer.observe import Scalars

EXAMPLE = 'mlflow("http://mlflow:5000", "freshrank"), wandb("freshrank", offline)'
EXTRA = "tracking"
_WAITING = 1_000
"""Entries that wait for a tracker at most; what comes then is dropped and counted."""

Values = Mapping[str, float]
About = Mapping[str, str]
"""What a run was made with, by name."""


class Run(Protocol):
    """One run in a tracker."""

    def log(self, values: Values, step: int) -> None:
        """Keep finite values by name."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class Tracker(Protocol):
    """Where runs are kept."""

    package: ClassVar[str]

    def open(self, name: str, about: About, folder: Path) -> Run:
        """Begin a run; files that it needs lie in `folder`. Raises what the tracker raises."""
        ...


@dataclass(frozen=True)
class MLflow:
    """A tracking server, a database (`sqlite:///FILE`) or a folder."""

    uri: str
    experiment: str
    clock: Clock = WallClock()
    package: ClassVar[str] = "mlflow"

    def open(self, name: str, about: About, folder: Path) -> "_MLflowRun":
        """See `Tracker`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if "://" not in self.uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow wants to be asked for it
        mlflow = importlib.import_module("mlflow")
        client = mlflow.MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        run = client.create_run(experiment, run_name=name).info.run_id
        params = [mlflow.entities.Param(key, value) for key, value in about.items()]
        client.log_batch(run, params=params)
        return _MLflowRun(mlflow, client, run, self.clock)


class _MLflowRun:
    def __init__(self, mlflow: Any, client: Any, run: str, clock: Clock) -> None:
        self._mlflow, self._client, self._run, self._clock = mlflow, client, run, clock

    def log(self, values: Values, step: int) -> None:
        """See `Run`."""
        now_ms = self._clock.now_us() // 1000
        metrics = [self._mlflow.entities.Metric(key, value, now_ms, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """See `Run`."""
        self._client.set_terminated(self._run)


@dataclass(frozen=True)
class WandB:
    """Weights & Biases; `offline` writes files that `wandb sync` sends later."""

    project: str
    mode: str
    package: ClassVar[str] = "wandb"

    def open(self, name: str, about: About, folder: Path) -> "_WandBRun":
        """See `Tracker`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True
        )
        run = wandb.init(
            project=self.project,
            name=name,
            mode=self.mode,
            dir=str(folder),
            config=dict(about),
            reinit="create_new",
            settings=quiet,
        )
        return _WandBRun(wandb, run)


class _WandBRun:
    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run

    def log(self, values: Values, step: int) -> None:
        """See `Run`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Run`; the process that wandb started ends with it."""
        self._run.finish()
        self._wandb.teardown()


TRACKERS: Mapping[str, Way] = {
    "mlflow": Way(MLflow, (Text("uri"), Text("experiment", "freshrank"))),
    "wandb": Way(WandB, (Text("project", "freshrank"), Word("mode", ("online", "offline"), "online"))),
}


def parse(text: str) -> list[Tracker]:
    """The trackers that a line names. Raises ValueError, with a sentence, for what is none."""
    if not text.strip():
        return []
    nodes = calls.nodes(text, EXAMPLE)
    if len({calls.name_of(node) for node in nodes}) < len(nodes):
        raise ValueError("a tracker is named twice")
    return [calls.made(node, TRACKERS) for node in nodes]


def installed(tracker: Tracker) -> Tracker:
    """The tracker itself. Raises InvalidInput when its package is not installed."""
    if importlib.util.find_spec(tracker.package) is None:
        detail = f"{tracker.package} is not installed; it comes with the extra {EXTRA}: freshrank[{EXTRA}]"
        raise InvalidInput("trackers", "missing_extra", detail)
    return tracker


class Background:
    """One run of a tracker, on a thread: nothing waits for it and none of its failures goes further."""

    def __init__(
        self, tracker: Tracker, name: str, about: About, folder: Path, failed: Callable[[Exception], None]
    ) -> None:
        """`failed` is told of each failure, on that thread. Raises InvalidInput when the package is not installed."""
        installed(tracker)
        self._open: Callable[[], Run] = partial(tracker.open, name, about, folder)
        self._failed = failed
        self._queue: Queue[tuple[Values, int] | None] = Queue(_WAITING)
        self._thread = Thread(target=self._work, name=f"tracking-{tracker.package}", daemon=True)
        self._thread.start()

    def log(self, values: Values, step: int) -> None:
        """Keep what is a number; returns at once."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        try:
            self._queue.put_nowait((finite, step))
        except Full:
            self._failed(Overloaded("the tracker is too slow: an entry is dropped"))

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, for so long at most."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except Full:
            return
        self._thread.join(timeout_s)

    def _work(self) -> None:
        run: Run | None = None
        while (entry := self._queue.get()) is not None:
            try:
                run = run or self._open()
                run.log(*entry)
            except Exception as error:  # whatever a tracker raises, it is its own affair
                self._failed(error)
        try:
            if run is not None:
                run.close()
        except Exception as error:
            self._failed(error)


class Tracked(Scalars):
    """An observer that writes what TensorBoard gets into a tracker."""

    def __init__(self, run: Background) -> None:
        super().__init__()
        self._run = run

    def write(self, values: Values, learned: int) -> None:
        """See `Scalars`."""
        self._run.log(values, learned)

    def close(self) -> None:
        """Write what is left."""
        self._run.close()
