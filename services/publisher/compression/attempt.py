"""One candidate through a plan of compression and its gate, cheapest checks first."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from services.common.encode import RowLookup
from services.common.errors import CorruptState
from services.common.spec import OUTPUT, Arrays
from services.common.tensors import save
from services.publisher import golden, manifest, onnx_file, scores
from services.publisher.checks import Check, Verdict, holds, verdict
from services.publisher.compression import judge
from services.publisher.compression.judge import Answers, CompressionBounds, Figures
from services.publisher.compression.plan import Step
from services.publisher.golden import Golden
from services.publisher.manifest import GOLDEN, MODEL, Manifest
from services.publisher.onnx_file import FileBounds, OnnxModel
from services.publisher.replay import Scored, Snapshot

logger = logging.getLogger(__name__)

_RUNS = 60
"""Of each file when both are timed: their difference is small, and the machine is busy."""


@dataclass(frozen=True)
class Compression:
    """What a person asks for."""

    steps: tuple[Step, ...]
    bounds: CompressionBounds = CompressionBounds()

    def __str__(self) -> str:
        return ", ".join(map(str, self.steps))


@dataclass(frozen=True)
class Compressed:
    """What is staged instead of the candidate: its manifest, and the files that are not the candidate's own."""

    manifest: Manifest
    files: dict[str, bytes]


@dataclass(frozen=True)
class Attempt:
    """What came of a plan; `release` only when it passed."""

    plan: str
    verdict: Verdict
    original: Figures
    compressed: Figures | None = None
    release: Compressed | None = None

    def untaken(self, reason: str) -> "Attempt":
        """The same when Triton did not take what had passed."""
        checks = (*self.verdict.checks, holds("compression_loaded", False, reason))
        return replace(self, verdict=verdict(checks), release=None)

    def record(self) -> dict[str, Any]:
        """For the audit: why it is not served, if it is not, and the figures of both files."""
        return {
            "plan": self.plan,
            "reason": self.verdict.reason,
            "original": self.original.to_json(),
            "compressed": self.compressed.to_json() if self.compressed else None,
            "checks": self.verdict.to_json(),
        }


def compressed(data: bytes, steps: Sequence[Step], inputs: Arrays) -> bytes:
    """A model's bytes after a plan. Raises CorruptState naming the step that could not be taken."""
    model = onnx.load_model_from_string(data)
    for step in steps:
        try:
            model = step.run(model, inputs)
        except Exception as error:  # those of the quantiser and of onnx share no base of their own
            raise CorruptState(f"{step}: {type(error).__name__}: {error}") from error
    out: bytes = model.SerializeToString()
    return out


def attempt(
    folder: Path, found: Manifest, asked: Compression, replay: Snapshot, rows: RowLookup, files: FileBounds
) -> Attempt:
    """Compress an exported candidate and judge what came out. What goes wrong is a failed check, never an error."""
    data = (folder / MODEL).read_bytes()
    tried = Attempt(str(asked), verdict([]), Figures(len(data), judge.zipped(data)))
    try:
        requests = golden.read(folder / GOLDEN, found.spec, found.golden_tolerance)
        smaller = compressed(data, asked.steps, requests.inputs)
        return _judged(tried, _Pair(found, requests, data, smaller), asked.bounds, replay, rows, files)
    except CorruptState as error:
        return replace(tried, verdict=verdict([holds("compression", False, str(error))]))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Whatever the file makes the judge stumble over, the candidate goes on as it is.
        logger.exception("compressed file cannot be judged", extra={"release": found.release})
        return replace(tried, verdict=verdict([holds("compression", False, f"{type(error).__name__}: {error}")]))


@dataclass(frozen=True)
class _Pair:
    manifest: Manifest
    requests: Golden
    original: bytes
    compressed: bytes


def _judged(
    tried: Attempt, pair: _Pair, bounds: CompressionBounds, replay: Snapshot, rows: RowLookup, files: FileBounds
) -> Attempt:
    size = Figures(len(pair.compressed), judge.zipped(pair.compressed))
    tried = replace(tried, compressed=size)
    checks = onnx_file.judge_declaration(onnx_file.inspect(pair.compressed), pair.manifest.spec, files)
    checks.append(judge.judge_size(tried.original.bytes, size.bytes, bounds))
    if not verdict(checks).passed:
        return replace(tried, verdict=verdict(checks))
    models = {"original": OnnxModel(pair.original), "compressed": OnnxModel(pair.compressed)}
    took = onnx_file.fastest_ms(models, pair.requests.inputs, _RUNS)
    said = judge.answered(models["compressed"], pair.requests)
    checks.append(judge.judge_time(took["original"], took["compressed"], bounds))
    checks += judge.judge_answers(said, pair.requests, bounds)
    before, after = replay.score(list(models.values()), pair.manifest.spec, rows)
    checks += judge.judge_replay(before, after, bounds)
    tried = replace(
        tried,
        verdict=verdict(checks),
        original=_with(tried.original, took["original"], before),
        compressed=_with(size, took["compressed"], after),
    )
    return replace(tried, release=_release(pair, said, tried, checks)) if tried.verdict.passed else tried


def _with(figures: Figures, batch_ms: float, scored: Scored) -> Figures:
    labels, said = scored.labels[:, 0], scored.scores[:, 0]
    return replace(figures, batch_ms=batch_ms, auc=scores.auc(labels, said), log_loss=scores.log_loss(labels, said))


def _release(pair: _Pair, said: Answers, tried: Attempt, checks: Sequence[Check]) -> Compressed:
    inputs = {f"in.{name}": value for name, value in pair.requests.inputs.items()}
    files = {MODEL: pair.compressed, GOLDEN: save({**inputs, f"out.{OUTPUT}": said.scores})}
    assert tried.compressed is not None
    note = {
        "plan": tried.plan,
        "original": tried.original.to_json(),
        "compressed": tried.compressed.to_json(),
        "checks": {check.name: check.figure for check in checks if check.name.startswith("compression")},
        "original_files": {name: pair.manifest.files[name] for name in files},
        "original_golden_tolerance": pair.manifest.golden_tolerance,
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return Compressed(manifest.compressed(pair.manifest, digests, said.tolerance, note), files)
