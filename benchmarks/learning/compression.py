"""What each way of compression saves of a release, and what it costs.

    python -m benchmarks.learning.compression --release DIR [--examples FILE --deltas DIR] [--out FILE.json]

Bytes of the file and of its gzip, the fastest run of the golden batch and of one request of 128 candidates on one
thread, the largest error of a golden score, and how far a score depends on what else is in the call. With impressions
that the release has not learned from (`--examples`, as `tests.publisher.trained` writes them) and the row deltas of its
arm: the area and the log-loss on them, and what row codecs do to both. All ways run in turn in one process, so what
else the machine does hits them alike.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import Impression

from benchmarks.machine import machine, write_json
from services.common.encode import NoRows, RowLookup
from services.publisher import golden, manifest, onnx_file, scores
from services.publisher.compression import judge
from services.publisher.compression.attempt import compressed
from services.publisher.compression.plan import parse
from services.publisher.compression.rows import Coded, int8, through_half, through_int8
from services.publisher.golden import Golden
from services.publisher.history import RowHistory
from services.publisher.intake import Intake
from services.publisher.manifest import GOLDEN, MODEL, Manifest
from services.publisher.onnx_file import OnnxModel
from services.publisher.replay import Closed, Replay, Scored, Snapshot
from tests.trainer.world import read_logs

PLANS = (
    "",
    "prune(0.3)",
    "prune(0.5)",
    "prune(0.8)",
    "drop_units(0.25)",
    "drop_units(0.5)",
    "low_rank(0.99)",
    "low_rank(0.9)",
    "fp16",
    "int8_dynamic",
    "int8_static",
    "prune(0.5), int8_static",
    "drop_units(0.25), int8_dynamic",
)
CODECS = {"float32": lambda rows: rows, "half": through_half, "int8": through_int8}


class Unwatched:
    """Nobody looks at impressions as they pass."""

    def served(self, impression: Impression) -> None:
        """Nothing."""

    def labelled(self, closed: Closed) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Subject:
    """A release with what is asked of it."""

    manifest: Manifest
    requests: Golden
    model: bytes
    replay: Snapshot
    rows: RowLookup


def subject(release: Path, examples: Path | None, deltas: Path | None) -> Subject:
    """Open a release's folder; without examples nothing is replayed."""
    found = manifest.read(release)
    replay = Replay(10_000)
    intake = Intake(replay, Unwatched(), 0)
    for number, messages in (read_logs(examples) if examples else {}).items():
        for message in messages:
            intake.apply(number, message)
    rows: RowLookup = NoRows(found.spec.row_dim)
    if deltas is not None:
        history = RowHistory(deltas / "none", deltas, found.spec.row_dim)
        rows = history.restore(found.epoch, history.seq_of(found.epoch, found.positions))
    requests = golden.read(release / GOLDEN, found.spec, found.golden_tolerance)
    return Subject(found, requests, (release / MODEL).read_bytes(), intake.snapshot(), rows)


def ways(asked: Subject, runs: int) -> list[dict[str, Any]]:
    """One row of figures per plan."""
    files = {plan or "as exported": compressed(asked.model, parse(plan), asked.requests.inputs) for plan in PLANS}
    models = {plan: OnnxModel(data) for plan, data in files.items()}
    one = next(arrays for arrays in asked.requests.warm_ups() if arrays["mask"].shape[1] == 128)
    batch, single = (onnx_file.fastest_ms(models, arrays, runs) for arrays in (asked.requests.inputs, one))
    scored = dict(zip(models, asked.replay.score(list(models.values()), asked.manifest.spec, asked.rows), strict=True))
    first = scored["as exported"]
    return [
        {
            "way": plan,
            "bytes": len(data),
            "gzip_bytes": judge.zipped(data),
            "batch_ms": round(batch[plan], 3),
            "request_ms": round(single[plan], 3),
            **_errors(models[plan], asked.requests),
            **_quality(scored[plan], first),
        }
        for plan, data in files.items()
    ]


def codecs(asked: Subject) -> list[dict[str, Any]]:
    """One row of figures per encoding of embedding rows."""
    model, dim = OnnxModel(asked.model), asked.manifest.spec.row_dim
    sizes = {"float32": 4 * dim, "half": 2 * dim, "int8": len(int8(np.ones((1, dim), np.float32)).to_bytes())}
    said = {name: model.run(_coded(asked.requests, codec)) for name, codec in CODECS.items()}
    scored = {
        name: asked.replay.score([model], asked.manifest.spec, Coded(asked.rows, codec))[0]
        for name, codec in CODECS.items()
    }
    return [
        {
            "rows": name,
            "bytes_a_row": sizes[name],
            "error": float(judge.gap(said[name], said["float32"], asked.requests.mask)),
            **_quality(scored[name], scored["float32"]),
        }
        for name in CODECS
    ]


def _coded(requests: Golden, codec: Any) -> dict[str, Any]:
    coded = dict(requests.inputs)
    for name in ("user_row", "row", "history_row"):
        rows = coded[name]
        coded[name] = codec(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)
    return coded


def _errors(model: OnnxModel, requests: Golden) -> dict[str, float]:
    said = model.run(requests.inputs)
    alone = model.run(requests.smallest())
    return {
        "error": judge.gap(said, requests.scores, requests.mask),
        "alone": judge.gap(alone, said[:1], requests.mask[:1]),
    }


def _quality(found: Scored, first: Scored) -> dict[str, float | None]:
    if not len(found.labels):
        return {}
    labels, said, before = found.labels[:, 0], found.scores[:, 0], first.scores[:, 0]
    area, rise = (
        figure(labels, said, before, found.groups) for figure in (scores.auc_difference, scores.loss_difference)
    )
    return {
        "auc": scores.auc(labels, said),
        "auc_change": area.mean,
        "auc_error": area.error,
        "log_loss_rise": rise.mean / scores.log_loss(labels, before),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Aligned columns."""
    lines = [list(rows[0])] + [[f"{v:.5g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--examples", type=Path)
    parser.add_argument("--deltas", type=Path)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = subject(given.release, given.examples, given.deltas)
    found = {"machine": machine(), "load": os.getloadavg(), "impressions": len(asked.replay)}
    found |= {"ways": ways(asked, given.runs), "rows": codecs(asked)}
    if given.out:
        write_json(given.out, found)
    print(json.dumps({k: found[k] for k in ("machine", "load", "impressions")}), file=sys.stderr)
    print(table(found["ways"]), table(found["rows"]), sep="\n\n")


if __name__ == "__main__":
    main()
