"""Runs a candidate through every check of the gate, cheapest first; a broken one does not get to the dear ones."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.common.encode import RowLookup
from services.common.errors import CorruptState
from services.publisher import explored, gate, golden, onnx_file, relevance
from services.publisher.checks import Check, Verdict, holds, verdict
from services.publisher.gate import GateBounds
from services.publisher.golden import Golden
from services.publisher.judges import Judge
from services.publisher.judgments import Judged
from services.publisher.manifest import GOLDEN, MODEL, Manifest
from services.publisher.onnx_file import FileBounds, OnnxModel
from services.publisher.replay import Scored, Snapshot
from services.publisher.shelf import Opened

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Situation:
    """What the candidate is judged against, as it is now."""

    champion: Opened | None
    replay: Snapshot
    rows: RowLookup
    pushed_seq: int
    rows_time_us: int
    young: bool = False
    """Too few impressions have closed since there is this champion for anybody to have figures against it."""
    known: frozenset[str] = field(default_factory=frozenset)
    """Releases that the learner may have compared itself with: champion and previous."""
    judged: Callable[[], Sequence[Judged]] = tuple
    """Judged queries. Raises CorruptState when they cannot be read."""


def examine(
    manifest: Manifest, row_seq: int, folder: Path, now: Situation, bounds: GateBounds, files: FileBounds
) -> Verdict:
    """Judge an exported candidate. What goes wrong with its files is a failed check, never an error."""
    first = now.champion is None
    checks = [_parent(manifest, now), *gate.judge_learner(manifest.metrics, first, now.young, bounds)]
    checks += gate.judge_rows(manifest.learned_up_to_us, row_seq, now.rows_time_us, now.pushed_seq, bounds)
    try:
        checks += onnx_file.judge_declaration(onnx_file.inspect(folder / MODEL), manifest.spec, files)
        if not verdict(checks).passed:
            return verdict(checks)
        requests = golden.read(folder / GOLDEN, manifest.spec, manifest.golden_tolerance)
        model = OnnxModel(folder / MODEL)
        checks += _run(manifest, model, requests, now, bounds)
        if verdict(checks).passed and now.champion is not None:
            candidate, champion = _judge(manifest, model), _judge(now.champion.manifest, now.champion.model)
            judged = now.judged()
            checks.append(relevance.compare(now.replay.closed, judged, candidate, champion, now.rows, bounds.relevance))
        if verdict(checks).passed:
            return _explored(manifest, model, now, bounds, checks)
    except CorruptState as error:
        checks.append(holds("readable", False, str(error)))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # Whatever a file makes the judge stumble over, it must not stop the judge.
        logger.exception("candidate cannot be judged", extra={"release": manifest.release})
        checks.append(holds("judged", False, f"{type(error).__name__}: {error}"))
    return verdict(checks)


def _run(manifest: Manifest, model: OnnxModel, requests: Golden, now: Situation, bounds: GateBounds) -> list[Check]:
    champion = now.champion
    checks = gate.judge_golden(model.run(requests.inputs), requests.scores, requests.mask, requests.tolerance, bounds)
    took = onnx_file.fastest_ms({"candidate": model}, requests.inputs)
    if champion is not None:
        took["champion"] = onnx_file.fastest_ms({"champion": champion.model}, champion.golden.inputs)["champion"]
    checks.append(gate.judge_latency(took["candidate"], took.get("champion"), bounds))
    if not verdict(checks).passed:
        return checks
    one, other = _scored(manifest, model, now)
    return checks + gate.judge_replay(one, other, manifest.metrics, now.young, bounds)


def _explored(manifest: Manifest, model: OnnxModel, now: Situation, bounds: GateBounds, checks: list[Check]) -> Verdict:
    """The verdict with what the candidate and the champion would have earned where answers were left to chance."""
    candidate = _judge(manifest, model)
    champion = _judge(now.champion.manifest, now.champion.model) if now.champion is not None else None
    found = explored.compare(now.replay.closed, candidate, champion, now.rows)
    if bounds.offpolicy:
        checks = checks + [check for kind, one in found.items() if (check := one.check(kind)) is not None]
    return verdict(checks, {"offpolicy": {kind: one.record() for kind, one in found.items()}})


def _judge(manifest: Manifest, model: OnnxModel) -> Judge:
    return Judge(model, manifest.spec, manifest.objective)


def _scored(manifest: Manifest, model: OnnxModel, now: Situation) -> tuple[Scored, Scored | None]:
    champion = now.champion
    if champion is None:
        return now.replay.score([model], manifest.spec, now.rows)[0], None
    if champion.manifest.spec == manifest.spec:
        one, other = now.replay.score([model, champion.model], manifest.spec, now.rows)
        return one, other
    one = now.replay.score([model], manifest.spec, now.rows)[0]
    return one, now.replay.score([champion.model], champion.manifest.spec, now.rows)[0]


def _parent(manifest: Manifest, now: Situation) -> Check:
    if now.champion is None:
        return holds("parent", True)
    known = manifest.parent in now.known
    return holds("parent", known, f"compared with {manifest.parent or 'nothing'}, which does not serve")
