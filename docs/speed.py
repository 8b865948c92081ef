"""Parts of the learning page about cost: samples a second, shares of floors, several processes."""

from collections.abc import Mapping, Sequence
from typing import Any

_SEQUENCE = """## How fast the next-item model learns

A step of {samples:,} samples on diginetica, processor time of one thread ({cpu}, load {load:g} meanwhile; medians of
steps). The floor is the products of matrices that the step cannot do without, forward and backward, in the same kind of
number; what is above it is softmax, sampling, norms, the optimiser and rows.

    python -m benchmarks.learning.sequence_speed --data <diginetica> --out sequence_speed.json

{table}

{lesson} Sessions are packed end to end: {filled:.2%} of places hold an item. The ranker's share of its floor is in
[benchmarks.md](benchmarks.md).
"""

_HALF = {
    True: "bfloat16 pays on this processor.",
    False: "This processor has no products of bfloat16: float32 is {times:.1f} times as fast, and `half` is off there.",
}

_DISTRIBUTED = """## Several processes, one step

An archive of a planted shop, {samples:,} samples, steps of {step} impressions; the command is the one that Kubeflow
Trainer starts. {rounds} on {cores} cores. Processor time of the first process says what is divided;
{speed}.

    python -m benchmarks.learning.distributed --out distributed.json

{table}
"""


def sequence(study: Mapping[str, Any]) -> str:
    """Speed of the next-item model."""
    ways = {name: found for name, found in study.items() if isinstance(found, Mapping)}
    rows = [
        (
            name,
            f"{found['samples_per_cpu_second']:,}",
            f"{found['step_ms']:.0f}",
            f"{found['floor_ms']:.0f}",
            f"{found['share_of_floor']:.2f}",
        )
        for name, found in ways.items()
    ]
    half, full = ways["bfloat16"], ways["float32"]
    times = full["samples_per_cpu_second"] / half["samples_per_cpu_second"]
    return _SEQUENCE.format(
        samples=round(half["samples_per_step"]),
        cpu=study["cpu"],
        load=max(study["load_before"][0], study["load_after"][0]),
        table=_table(("way", "samples a second", "step ms", "floor ms", "floor / step"), rows),
        lesson=_HALF[times < 1].format(times=times),
        filled=half["filled"],
    )


def distributed(study: Mapping[str, Any]) -> str:
    """Cost and quality by number of processes; samples a second only where other work did not take the cores."""
    idle = study["load"][0] <= study["machine"]["cores"] + max(found["processes"] for found in study["results"])
    rows = [
        (
            found["name"],
            *([f"{found['samples_per_second']:,.0f}"] if idle else []),
            f"{found['processor_seconds_per_1000_samples']:.3f}",
            f"{found['log_loss']:.4f}",
            f"{found['auc']:.4f}",
        )
        for found in study["results"]
    ]
    head = ("way", *(["samples a second"] if idle else []), "s of the first's processor per 1,000", "log-loss", "AUC")
    busy = "samples a second are left out, for the machine was busy with other work"
    return _DISTRIBUTED.format(
        samples=study["samples"],
        step=study["step"],
        rounds="One round" if study["rounds"] == 1 else f"Medians of {study['rounds']} rounds in turn",
        cores=study["machine"]["cores"],
        speed="with fewer idle cores than processes samples a second say nothing of scaling" if idle else busy,
        table=_table(head, rows),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
