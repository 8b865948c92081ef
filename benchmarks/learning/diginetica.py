"""Incremental learning of the next item on diginetica (CIKM Cup 2016), by the protocol of ADER (Mi et al., 2020).

    python -m benchmarks.learning.diginetica --data DIR --out FILE.json [--rows fine-tune,replay] [--seed 1]

DIR holds period_0.txt.gz ... with a line "session item" per click, in the order of time. After every period FILE.json
holds what is known so far, and FILE.state/ what a restart needs to go on; delete both to begin anew. All rows are
trained by the same settings. A full retrain can be made after every n-th period only (`--full-every`), for its time.
"""

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from benchmarks.machine import commit, machine, write_json
from services.common.errors import InvalidInput
from services.trainer.files import write_file
from services.trainer.hooks import NoHooks
from services.trainer.sequence.catalogue import WAYS
from services.trainer.sequence.learner import Learner, Settings
from services.trainer.sequence.metrics import Scores
from services.trainer.sequence.periods import Fit, ask, pass_by, update
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import Update

SETTINGS = Settings(half=True)
FULL = "full-retrain"


def load(folder: Path, period: int) -> Sessions:
    """Sessions of one period. Raises InvalidInput for a file that is not lines of two whole numbers."""
    path = folder / f"period_{period}.txt.gz"
    with gzip.open(path, "rt") as file:
        try:
            clicks = np.loadtxt(file, dtype=np.int64, ndmin=2)
        except ValueError as error:
            raise InvalidInput(path.name, "not_numbers", str(error)) from error
    if clicks.shape[1] != 2:
        raise InvalidInput(path.name, "columns", f"{clicks.shape[1]} columns, but a line is session and item")
    return Sessions.of_clicks(clicks[:, 0], clicks[:, 1])


class Run:
    """One row: a way of updating with one seed, as far as it has come."""

    def __init__(self, name: str, seed: int, out: Path, every: int, settings: Settings = SETTINGS) -> None:
        self.name, self.seed, self.every = name, seed, every
        self.way: Update = WAYS[name]()
        self.learner = Learner(settings, seed)
        self.next = 0
        """Period to learn next."""
        self._path = out.with_suffix(".state") / f"{name}-{seed}.safetensors"
        if self._path.exists():
            self._restore()

    def advance(self, data: Path) -> dict[str, Any] | None:
        """Learn a period and be tested by the one after it; None when this way makes no update now."""
        newest, period = load(data, self.next), self.next
        self.next += 1
        if self.next % self.every:
            pass_by(self.learner, self.way, newest, period, self.seed)
            return None
        clock = _Clock()
        fitted = update(self.learner, self.way, newest, period, self.seed, _report)
        train = clock.spent()
        scores = ask(self.learner, load(data, self.next), self.way.beside())
        return _record(self.next, fitted, scores, train, clock.spent())

    def save(self) -> None:
        """Weights, rows and what the way remembers, with the period it stands before."""
        way = {f"way.{name}": value for name, value in self.way.state().items()}
        tensors = self.learner.state() | way | {"next": torch.tensor(self.next)}
        write_file(self._path, save(tensors), NoHooks(), "run")

    def _restore(self) -> None:
        tensors = load_file(self._path)
        self.next = int(tensors.pop("next"))
        self.way.load({k.removeprefix("way."): v for k, v in tensors.items() if k.startswith("way.")})
        self.learner.load(tensors)


class _Clock:
    """Seconds since it was last asked: of the wall, and of this process' processor time."""

    def __init__(self) -> None:
        self._last = (time.perf_counter(), time.process_time())

    def spent(self) -> dict[str, float]:
        now = (time.perf_counter(), time.process_time())
        wall, own = (after - before for before, after in zip(self._last, now, strict=True))
        self._last = now
        return {"wall": round(wall, 2), "cpu": round(own, 2)}


def _record(period: int, fitted: Fit, scores: Scores, train: dict[str, float], evaluation: dict[str, float]) -> Any:
    return {
        "period": period,
        "recall": round(100 * scores.recall, 3),
        "mrr": round(100 * scores.mrr, 3),
        "n": scores.n,
        "train_s": train,
        "evaluate_s": evaluation,
    } | asdict(fitted)


def _report(epoch: int, loss: float, held_out: Scores) -> None:
    print(
        f"    epoch {epoch}: loss {loss:.3f}, held out {100 * held_out.recall:.2f} / {100 * held_out.mrr:.2f}",
        flush=True,
    )


def described() -> dict[str, Any]:
    """What the figures depend on, beside the data."""
    return {
        "settings": asdict(SETTINGS),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "malloc": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
        "commit": commit(),
        **machine(),
    }


class Results:
    """The JSON file: rows by "way-seed", each with the list of its periods."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"about": described(), "rows": {}}
        if path.exists():
            self.content["rows"] = json.loads(path.read_text())["rows"]

    def row(self, run: Run) -> dict[str, Any]:
        """The row of a run; what it recorded after its last saved state is dropped.

        Raises InvalidInput when the row was begun with other settings.
        """
        begun: dict[str, Any] = {"row": run.name, "seed": run.seed, "every": run.every, **described(), "periods": []}
        row: dict[str, Any] = self.content["rows"].setdefault(f"{run.name}-{run.seed}", begun)
        same = json.loads(json.dumps([begun["settings"], run.every]))
        if [row["settings"], row["every"]] != same:
            raise InvalidInput(
                "out", "other_settings", f"{self.path} was begun with other settings; choose another file"
            )
        row["periods"] = [found for found in row["periods"] if found["period"] <= run.next]
        return row

    def write(self) -> None:
        """Put the file in place, with the mean of each row."""
        for row in self.content["rows"].values():
            row["mean"] = mean(row["periods"])
        write_json(self.path, self.content)


def mean(periods: list[dict[str, Any]]) -> dict[str, float]:
    """Means over periods of recall, mrr and seconds; empty without any."""
    if not periods:
        return {}
    parts = {name: [float(p[name]) for p in periods] for name in ("recall", "mrr")}
    seconds = {f"train_{kind}_s": [float(p["train_s"][kind]) for p in periods] for kind in ("wall", "cpu")}
    return {name: round(sum(values) / len(values), 3) for name, values in (parts | seconds).items()}


def rows(names: str) -> Iterator[str]:
    """Names of ways, separated by commas. Raises InvalidInput for one that is not known."""
    for name in names.split(","):
        if name not in WAYS:
            raise InvalidInput("rows", "unknown", f"there is no {name}; there are {', '.join(WAYS)}")
        yield name


def main() -> None:
    """Run what is asked for, row after row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with period_0.txt.gz and so on")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written after every period")
    parser.add_argument("--rows", default=",".join(WAYS), help="ways, separated by commas")
    parser.add_argument("--periods", type=int, default=16, help="periods to be tested by")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full-every", type=int, default=1, help="make the full retrain after every n-th period only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(asked.out)
    for name in list(rows(asked.rows)):
        run = Run(name, asked.seed, asked.out, asked.full_every if name == FULL else 1)
        row = results.row(run)
        while run.next < asked.periods:
            record = run.advance(asked.data)
            if record:
                row["periods"].append(record)
                print(f"{name} seed {asked.seed}: {json.dumps(record)}", flush=True)
            results.write()
            run.save()
        print(f"{name} seed {asked.seed}: mean {json.dumps(mean(row['periods']))}", flush=True)


if __name__ == "__main__":
    main()
