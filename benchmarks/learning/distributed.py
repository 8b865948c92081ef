"""Learning an archive with 1, 2 and 4 processes: samples a second and quality, beside the trainer's own fold.

    python -m benchmarks.learning.distributed --out distributed.json [--impressions 4000] [--step 400] [--rounds 3]

A sample is one candidate of an impression. The archive is planted: clicks follow a taste for items and two features.
Every run is the command itself under `torchrun`, in turns; medians over the rounds are kept. Log-loss is of scores
taken before learning, over the second half. Seconds are of learning alone, without start and checkpoints.

Where there are fewer idle cores than processes the seconds say nothing about scaling. Seconds of the first process's
processor time say how much of the work is divided: what all do alike (reading, hashing, optimiser) stays in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import commit, load, machine, rounded, versions, write_json
from benchmarks.trainer import LISTED, SPEC
from services.trainer.archive import ArchiveSource
from services.trainer.archive_writer import Archive
from services.trainer.examples import Batch
from services.trainer.factory import learner_of
from services.trainer.settings import TrainerSettings
from tests.trainer.together import free_port
from tests.trainer.world import Shop

BATCH = 2_000
"""Messages; a step never holds examples of two batches."""


@dataclass(frozen=True)
class Way:
    """Processes under `torchrun`; 0 is the trainer's own fold."""

    processes: int
    staleness: int = 0

    @property
    def name(self) -> str:
        """In the results."""
        if not self.processes:
            return "the trainer itself"
        count = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return count + (f", {self.staleness} steps stale" if self.staleness else "")


WAYS = (Way(0), Way(1), Way(2), Way(4), Way(2, 2), Way(4, 2))


def settings_of(store: Path, impressions: int, step: int) -> TrainerSettings:
    """Steps of so many impressions of 25 candidates."""
    return TrainerSettings(
        store=store,
        row_dim=SPEC.row_dim,
        max_rows=100_000,
        batch_impressions=step,
        batch_items=1,
        window=impressions // 2,
        device="cpu",
        log_level="ERROR",
    )


def planted(folder: Path, impressions: int) -> Path:
    """An archive of a shop."""
    archive, shop = Archive(folder), Shop(seed=1, items=5_000, users=2_000, listed=LISTED, spec=SPEC)
    archive.add(Batch({0: (0, impressions)}, {0: shop.messages(impressions)}))
    archive.describe(SPEC)
    archive.flush()
    return folder


def alone(examples: Path, settings: TrainerSettings) -> dict[str, Any]:
    """The fold of the trainer, in this process."""
    torch.set_num_threads(1)
    learner, source = learner_of(settings, SPEC, None), ArchiveSource(examples, BATCH)
    seconds = processor = 0.0
    while (batch := source.poll()) is not None:
        began, began_processor = time.perf_counter(), time.process_time()
        learner.apply(batch)
        seconds += time.perf_counter() - began
        processor += time.process_time() - began_processor
    return {"seconds": seconds, "processor_seconds": processor, "figures": learner.progress.metrics()}


def together(way: Way, examples: Path, settings: TrainerSettings) -> dict[str, Any]:
    """The command, as the README has it."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={way.processes}"]
    command += [f"--master-port={free_port()}", "-m", "services.trainer.distributed", f"--examples={examples}"]
    command += [f"--staleness={way.staleness}", f"--batch={BATCH}"]
    chosen = {f"FRESHRANK_TRAINER_{k.upper()}": str(v) for k, v in settings.model_dump(exclude_unset=True).items()}
    environment = os.environ | chosen | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def run(way: Way, examples: Path, impressions: int, step: int) -> dict[str, Any]:
    """One run, from nothing."""
    with tempfile.TemporaryDirectory() as store:
        settings = settings_of(Path(store), impressions, step)
        return together(way, examples, settings) if way.processes else alone(examples, settings)


def summary(way: Way, runs: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Medians."""
    seconds = statistics.median(found["seconds"] for found in runs)
    processor = statistics.median(found["processor_seconds"] for found in runs)
    figures = {
        "samples_per_second": samples / seconds,
        "processor_seconds_per_1000_samples": 1000 * processor / samples,
        "log_loss": runs[0]["figures"]["log_loss"],
        "auc": runs[0]["figures"]["auc"],
    }
    return {"name": way.name, "processes": way.processes, "staleness": way.staleness} | rounded(figures)


def main() -> None:
    """Run all ways in turns and write the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--impressions", type=int, default=4_000)
    parser.add_argument("--step", type=int, default=400, help="impressions that a step has at least")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        examples, runs = planted(Path(folder), options.impressions), {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(run(way, examples, options.impressions, options.step))
    samples = options.impressions * LISTED
    results = [summary(way, found, samples) for way, found in runs.items()]
    about = {"machine": machine(), "versions": versions(), "commit": commit(), "load": load()}
    write_json(
        options.out, about | {"samples": samples, "step": options.step, "rounds": options.rounds, "results": results}
    )
    for result in results:
        print(result)


if __name__ == "__main__":
    main()
