"""Trainer: samples a second against floors and stock ways, and step time against table size.

    python -m benchmarks.trainer --out trainer.json [--quick]

A sample is one candidate of an impression. Every path trains the same ranker on the same encoded examples, one thread:

- floor: forward, backward and our dense optimiser with constant rows: no embeddings at all
- dense_adam: torch.nn.Embedding and torch.optim.Adam over everything, the stock way
- sparse_adam: Embedding(sparse=True), torch.optim.SparseAdam for rows, Adam for the rest
- ours: look-up by key, row-wise Adagrad on touched rows, delta tracking
- whole: ours from Kafka bytes: Arrow, protobuf, encoding, scoring before learning, learning

They take turns, medians over repetitions are kept. Ratios are of samples per second of processor time: all paths are
one thread, and others on the machine take wall time from each unequally. Before anything is timed, ours must equal a
dense reference in double precision within 1e-5 after 100 steps, and rows that were not touched must keep every bit.
Its rates are low: where a rectifier flips on the last digit, one step differs by its whole rate.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.common.spec import FeatureRef, ModelSpec
from services.trainer.checkpoint import Checkpoints, Name
from services.trainer.deltas import DeltaFiles, DeltaInfo
from services.trainer.examples import Batch, Reader, Step, StepSize
from services.trainer.factory import learner_of
from services.trainer.groups import Group, groups_of
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from services.trainer.models.base import Sizes
from services.trainer.models.din import DeepInterestNetwork
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.optimisers import DenseConfig, DenseOptimiser
from services.trainer.strategies.weights import WeightConfig
from tests.trainer.world import Shop

DIM = 32
IMPRESSIONS, LISTED = 40, 25
CPU = torch.device("cpu")
RATE, ROW_RATE = 2e-4, 5e-4
"""Of the comparison with the reference."""
PLAIN = {
    "row_dim": DIM,
    "row_dropout": 0.0,
    "warmup_impressions": 0,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "admission": 1,
}

SPEC = ModelSpec(
    user_features=tuple(FeatureRef(k, f"u{k}", "user_stats") for k in range(1, 13)),
    item_features=tuple(FeatureRef(k, f"i{k}", "item_stats") for k in range(10, 30)),
    row_dim=DIM,
)


def learner(rows: int, **changes: Any) -> Learner:
    """An empty learner with room for so many rows."""
    settings = TrainerSettings(max_rows=rows + 100_000, **{**PLAIN, **changes})
    return learner_of(settings, SPEC, None)


def steps_of(count: int, seed: int) -> list[Step]:
    """Steps of 1,000 candidates each."""
    shop = Shop(seed=seed, items=5_000, users=2_000, listed=LISTED, spec=SPEC)
    whole = StepSize(10**9)
    return [next(Reader(whole).steps(Batch({0: (0, 1)}, {0: shop.messages(IMPRESSIONS)}))) for _ in range(count)]


def fill(made: Learner, rows: int) -> None:
    """Give so many items a row, beside those of the steps."""
    for start in range(0, rows, 100_000):
        ids = [f"filler-{k}" for k in range(start, min(rows, start + 100_000))]
        made.tables.item._admit(ids, _keys(start, start + len(ids)))
    made.tables.item.rows[:rows] = np.random.default_rng(0).standard_normal((1, DIM), np.float32) * 0.01
    made.tables.item.unsaved()


def _keys(start: int, end: int) -> Any:
    return np.arange(start, end, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0xABCDEF1234567)


@dataclass
class Prepared:
    """A step as every path takes it."""

    groups: list[Group]
    inputs: list[dict[str, Tensor]]
    items: list[Tensor]
    """Rows of an embedding table for each place, [B, N] and [B, L], per group."""
    history: list[Tensor]
    samples: int


def prepared(steps: Sequence[Step], made: Learner) -> list[Prepared]:
    """Encode once."""
    out = []
    for step in steps:
        groups = groups_of(step, SPEC, made.tables, WeightConfig())
        items, history = [], []
        for group in groups:
            count = len(group.layout.items)
            items.append(_placed(group.negatives.shape, group.layout.items_at, group.item_slots[:count]))
            shape = group.arrays["history_mask"].shape
            history.append(_placed(shape, group.layout.history_at, group.item_slots[count:]))
        samples = sum(int(group.arrays["mask"].sum()) for group in groups)
        out.append(Prepared(groups, [group.tensors(CPU) for group in groups], items, history, samples))
    return out


def _placed(shape: tuple[int, ...], at: Any, slots: Any) -> Tensor:
    index = np.zeros(shape, np.int64)
    index[at] = np.maximum(slots, 0)
    return torch.from_numpy(index)


def loss_of(ranker: DeepInterestNetwork, step: Prepared, rows: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Summed loss of a step; `rows` gives the rows of indexes, None leaves the encoded ones."""
    total = torch.zeros((), dtype=next(ranker.parameters()).dtype)
    for group, x, items, history in zip(step.groups, step.inputs, step.items, step.history, strict=True):
        inputs = {n: v.to(total.dtype) if v.is_floating_point() else v for n, v in x.items()}
        if rows is not None:
            inputs |= {"row": rows(items), "history_row": rows(history)}
        logits = ranker.logits(inputs)
        negatives = torch.from_numpy(group.negatives).unsqueeze(-1)
        total = total + (F.softplus(logits) * negatives - logits * torch.from_numpy(group.positives)).sum()
    return total


def floor_path(made: Learner, steps: Sequence[Prepared]) -> Callable[[], None]:
    """No embeddings."""
    ranker = DeepInterestNetwork(SPEC, Sizes())
    optimiser = DenseOptimiser(ranker, DenseConfig(clip=0, decay=0, warmup=0))

    def run() -> None:
        for step in steps:
            optimiser.zero()
            loss_of(ranker, step, None).backward()
            optimiser.step()

    return run


def stock_path(rows: int, steps: Sequence[Prepared], sparse: bool) -> Callable[[], None]:
    """torch.nn.Embedding with Adam, or with SparseAdam."""
    ranker = DeepInterestNetwork(SPEC, Sizes())
    table = torch.nn.Embedding(rows, DIM, sparse=sparse)
    if sparse:
        optimisers: list[Any] = [torch.optim.Adam(ranker.parameters()), torch.optim.SparseAdam(table.parameters())]
    else:
        optimisers = [torch.optim.Adam([*ranker.parameters(), *table.parameters()])]

    def run() -> None:
        for step in steps:
            for optimiser in optimisers:
                optimiser.zero_grad()
            loss_of(ranker, step, table).backward()
            for optimiser in optimisers:
                optimiser.step()

    return run


def our_path(made: Learner, steps: Sequence[Prepared]) -> Callable[[], None]:
    """The strategy, with the changed rows taken after each step."""

    def run() -> None:
        for number, step in enumerate(steps):
            made.strategy.learn(step.groups, number)
            made.tables.item.changed()

    return run


def whole_path(made: Learner, messages: Sequence[Sequence[bytes]]) -> Callable[[], None]:
    """From bytes."""

    def run() -> None:
        made.reader.seen.clear()  # the same messages again
        for number, values in enumerate(messages):
            made.apply(Batch({0: (number, number + 1)}, {0: list(values)}))

    return run


def correct(steps: int = 100) -> dict[str, Any]:
    """Ours against a dense reference in double precision; raises SystemExit when they differ."""
    made = learner(
        20_000, optimiser="adagrad", learning_rate=RATE, row_learning_rate=ROW_RATE, row_clip_norm=1e9, row_max_norm=1e9
    )
    fill(made, 2_000)
    ready = prepared(steps_of(steps, seed=1), made)
    table = made.tables.item
    reference = DeepInterestNetwork(SPEC, Sizes())
    reference.load_state_dict(made.strategy.ranker.state_dict())
    reference.double()
    rows = torch.from_numpy(table.rows[: table.next].astype(np.float64)).requires_grad_()
    squares, config = torch.zeros(table.next, dtype=torch.float64), table.config
    memory = [torch.full_like(p, 0.01) for p in reference.parameters()]
    before, touched = table.rows[: table.next].copy(), np.zeros(table.next, np.bool_)
    for number, step in enumerate(ready):
        reference.zero_grad()
        rows.grad = None
        for group in step.groups:
            group.user_slots[:] = -1  # the reference has no rows of shoppers
        if reference.due(number):
            reference.observe(step.inputs[0])
        loss_of(reference, step, rows.__getitem__).backward()
        with torch.no_grad():
            for p, square in zip(reference.parameters(), memory, strict=True):
                assert p.grad is not None
                square += p.grad**2
                p -= RATE * p.grad / (square.sqrt() + 1e-10)
            assert rows.grad is not None
            moved = rows.grad.abs().sum(1) > 0
            touched |= moved.numpy()
            squares += (rows.grad**2).mean(1)
            change = config.rate * rows.grad / ((squares + config.first).sqrt() + config.epsilon)[:, None]
            rows -= torch.where(moved[:, None], change, torch.zeros_like(change))
        made.strategy.learn(step.groups, number)
    dense = max(
        float((a - b.double()).abs().max().detach())
        for a, b in zip(reference.parameters(), made.strategy.ranker.parameters(), strict=True)
    )
    row = float(np.abs(rows.detach().numpy() - table.rows[: table.next]).max())
    same = bool((table.rows[: table.next][~touched].view(np.int32) == before[~touched].view(np.int32)).all())
    moved_by = float(np.abs(table.rows[: table.next] - before).max())
    found = {
        "steps": steps,
        "moved_by": moved_by,
        "dense": dense,
        "rows": row,
        "untouched_rows": int((~touched).sum()),
        "untouched_same": same,
    }
    if max(dense, row) > 1e-5 or moved_by < 2e-4 or not same or touched.all():
        raise SystemExit(f"not the same as the reference: {found}")
    return found


def throughput(rows: int, steps: int, repetitions: int) -> dict[str, Any]:
    """Samples a second of each path, in turns."""
    made = learner(rows)
    fill(made, rows)
    raw = steps_of(steps, seed=2)
    ready = prepared(raw, made)
    shop = Shop(seed=2, items=5_000, users=2_000, listed=LISTED, spec=SPEC)
    messages = [shop.messages(IMPRESSIONS) for _ in range(steps)]
    few = ready[: max(2, steps // 5)]
    paths: dict[str, tuple[Callable[[], None], int]] = {
        "floor": (floor_path(made, ready), _samples(ready)),
        "dense_adam": (stock_path(made.tables.item.next, few, sparse=False), _samples(few)),
        "sparse_adam": (stock_path(made.tables.item.next, ready, sparse=True), _samples(ready)),
        "ours": (our_path(made, ready), _samples(ready)),
        "whole": (whole_path(learner(100_000), messages), _samples(ready)),
    }
    for run, _ in paths.values():
        run()
    wall: dict[str, list[float]] = {name: [] for name in paths}
    own: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(repetitions):
        for name, (run, samples) in paths.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            own[name].append(samples / (time.process_time() - used))
            wall[name].append(samples / (time.perf_counter() - start))
    out: dict[str, Any] = {"rows": rows, "dim": DIM, "candidates_per_step": ready[0].samples}
    for kind, taken in (("samples_per_second", wall), ("samples_per_cpu_second", own)):
        out[kind] = {name: _summary(values) for name, values in taken.items()}
    for other in ("floor", "dense_adam", "sparse_adam"):
        figures = out["samples_per_cpu_second"]
        out[f"ours_over_{other}"] = figures["ours"]["median"] / figures[other]["median"]
    return out


def by_size(sizes: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """Step time with a delta every tenth step, and what a checkpoint takes, for tables of several sizes."""
    out = []
    raw = steps_of(steps, seed=3)
    for rows in sizes:
        made = learner(rows)
        fill(made, rows)
        ready = prepared(raw, made)
        with tempfile.TemporaryDirectory() as folder:
            files = DeltaFiles(Path(folder) / "deltas", NoHooks())
            checkpoints, chain = Checkpoints(Path(folder) / "checkpoints", NoHooks()), [Name(1, 0)]
            times, saves = [], []
            for number, step in enumerate([*ready[:5], *ready]):
                start = time.perf_counter()
                made.strategy.learn(step.groups, number)
                if number % 10 == 9:
                    info = DeltaInfo(1, 0, {0: number}, float("nan"), 0)
                    files.write(number, info, made.tables.item.changed(), made.tables.user.changed())
                times.append(time.perf_counter() - start)
                if number % 40 == 39:
                    start = time.perf_counter()
                    checkpoints.save(Name(1, number), made, chain, {})
                    saves.append(time.perf_counter() - start)
        spent = np.array(times[5:]) * 1000
        out.append(
            {
                "rows": rows,
                "step_ms": {"median": float(np.median(spent)), "p99": float(np.quantile(spent, 0.99))},
                "step_and_delta_ms_mean": float(spent.mean()),
                "checkpoint_s": float(np.median(saves)) if saves else None,
                "rss_mib": _resident_mib(),
            }
        )
        del made, ready
    return out


def _resident_mib() -> float:
    """Memory of this process now; its peak would be that of the largest table before."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _samples(steps: Sequence[Prepared]) -> int:
    return sum(step.samples for step in steps)


def _summary(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(middle), "iqr": float(high - low), "low": float(min(values)), "high": float(max(values))}


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="small tables, few repetitions: does it run?")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    quick = asked.quick
    result: dict[str, Any] = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
        },
        "load": os.getloadavg(),
        "correct": correct(20 if quick else 100),
        "throughput": throughput(50_000 if quick else 1_000_000, 5 if quick else 20, 2 if quick else 5),
        "by_size": by_size((10_000, 50_000) if quick else (100_000, 1_000_000, 10_000_000), 20 if quick else 120),
    }
    found = result["throughput"]["samples_per_cpu_second"]["floor"]
    result["trusted"] = found["iqr"] < 0.2 * found["median"]
    asked.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
