"""How fast the sequence model trains, against the products of matrices that a step cannot do without.

    python -m benchmarks.learning.sequence_speed --data DIR --out FILE.json [--steps 30]

The floor of a step is `torch.mm` of its shapes, forward and backward, in the kind of number that the step uses, on one
thread: linear layers of the blocks, and logits of the sample. Processor time of this process, medians of steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.learning.diginetica import SETTINGS, load
from benchmarks.machine import load as load_average
from benchmarks.machine import machine, write_json
from services.trainer.sequence.learner import Learner, Settings
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.ways import DROPOUT

VARIANTS = {
    "bfloat16": replace(SETTINGS, half=True),
    "float32": replace(SETTINGS, half=False),
    "full softmax, bfloat16": replace(SETTINGS, candidates=0, half=True),
    "full softmax, float32": replace(SETTINGS, candidates=0, half=False),
}


def measured(settings: Settings, data: Path, steps: int) -> dict[str, Any]:
    """Samples per second of processor time of whole steps, of the floor, and their ratio."""
    sessions = load(data, 0)
    learner = Learner(settings, 1)
    learner.rows.add(sessions.items, 1)
    slots = learner.slots(sessions)
    learner.begin(np.bincount(slots.items, minlength=len(learner.rows)), 1, DROPOUT)
    packed = pack(slots, settings.sizes.length)
    batches = list(packed.batches(settings.rows))[: steps + 3]
    seconds = [_seconds(lambda batch=batch: learner.step(learner.loss(learner.see(batch)))) for batch in batches][3:]
    samples = statistics.mean(int((batch.targets != NONE).sum()) for batch in batches[3:])
    floor = _floor(settings, samples, len(learner.rows))
    step = statistics.median(seconds)
    return {
        "samples_per_step": samples,
        "step_ms": round(1000 * step, 2),
        "floor_ms": round(1000 * floor, 2),
        "samples_per_cpu_second": round(samples / step),
        "share_of_floor": round(floor / step, 3),
        "filled": round(packed.filled, 4),
    }


def _floor(settings: Settings, samples: float, catalogue: int) -> float:
    """Seconds of the products alone: each [n, k] x [k, m] costs three, one forward and two backward."""
    dim, inner = settings.sizes.dim, settings.sizes.inner * settings.sizes.dim
    shapes = [(dim, 3 * dim), (dim, dim), (dim, inner), (inner, dim)] * settings.sizes.blocks
    shapes.append((dim, settings.candidates or catalogue))
    kind = torch.bfloat16 if settings.half else torch.float32
    n = round(samples)
    total = 0.0
    for k, m in shapes:
        left, right, out = (torch.randn(*shape, dtype=kind) for shape in ((n, k), (k, m), (n, m)))
        forward, d_left, d_right = (torch.empty_like(part) for part in (out, left, right))

        def products(a=left, b=right, c=out, x=forward, y=d_left, z=d_right) -> None:  # type: ignore[no-untyped-def]
            torch.mm(a, b, out=x)
            torch.mm(c, b.T, out=y)
            torch.mm(a.T, c, out=z)

        total += statistics.median(_seconds(products) for _ in range(15))
    return total


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Measure all variants and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with period_0.txt.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"load_before": load_average(), **machine(), "torch": torch.__version__}
    for name, settings in VARIANTS.items():
        found[name] = measured(settings, asked.data, asked.steps)
        print(name, found[name], flush=True)
    write_json(asked.out, found | {"load_after": load_average()})


if __name__ == "__main__":
    main()
