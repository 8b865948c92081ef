"""Spoiled candidates lie where the trainer puts its own: each is refused for its fault, and none ever serves."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from freshrank.v1 import ranking_pb2
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline

Spoil = Callable[[Path], None]


async def test_each_spoiled_candidate_is_refused_for_its_fault_and_the_champion_serves_on(loop: Loop) -> None:
    champion = await loop.serving()
    for number, (spoil, fault) in enumerate(FAULTS.items()):
        for attempt in range(3):
            release = plant(loop, loop.champion(), spoil, 3 * number + attempt)
            (decision,) = await eventually(lambda r=release: decisions(loop, r), 60)
            if not overtaken(decision):
                break
        print(f"{spoil.__name__}: {decision['decision']}: {decision['reason']}")
        assert decision["decision"] == "refused"
        assert fault in decision["reason"]
        assert not (loop.plan.store / "releases" / release).exists()
        assert not (loop.plan.store / "triton" / release).exists()
    refused = {entry["release"] for entry in loop.audit() if entry["decision"] == "refused"}
    async with loop.calling() as api:
        asked = await api.recommend(ranking_pb2.Shopper(user_id="dora", session_id="dora-1"))
    assert asked is not None
    assert asked[0].release
    assert champion not in refused
    assert not {answer.release for answer in loop.record.answers} & refused


def decisions(loop: Loop, release: str) -> list[dict[str, Any]]:
    """What the publisher decided on it."""
    return [entry for entry in loop.audit() if entry["release"] == release]


def overtaken(decision: dict[str, Any]) -> bool:
    """Whether the real trainer's own candidate or promotion came in between."""
    return "superseded" in decision["reason"] or "parent" in decision["reason"]


def plant(loop: Loop, champion: str, spoil: Spoil, number: int) -> str:
    """A copy of the champion, named as the next release, spoiled, with hashes that match."""
    source = loop.plan.store / "releases" / champion
    manifest = json.loads((source / "manifest.json").read_text())
    lane = json.loads((loop.plan.store / "arms" / "main" / "control.json").read_text())
    lineage, seq = lane["lineage"], manifest["seq"]
    made = datetime.now(UTC) + timedelta(seconds=number)  # names differ, and are newer than the trainer's own
    release = f"r{made:%Y%m%dt%H%M%S}-{lineage}-{seq}"
    target = loop.plan.store / "arms" / "main" / "exports" / release
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("manifest.json"))
    spoil(target)
    metrics = manifest["metrics"] | {f"champion_{k}": v for k, v in manifest["metrics"].items() if "champion" not in k}
    now_us = time.time_ns() // 1000
    manifest |= {"release": release, "parent": champion, "created_us": now_us, "metrics": metrics}
    manifest |= {name: lane[name] for name in ("lineage", "epoch", "slot")}
    manifest["files"] = {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in manifest["files"]}
    if spoil is other_bytes:
        manifest["files"]["model.onnx"] = "0" * 64
    (target / "manifest.json.part").write_text(json.dumps(manifest))
    (target / "manifest.json.part").rename(target / "manifest.json")
    return release


def other_bytes(folder: Path) -> None:
    """Not the file that the manifest names."""


def truncated(folder: Path) -> None:
    """Half a file."""
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])


def no_numbers(folder: Path) -> None:
    """Weights that are NaN."""
    model = onnx.load(str(folder / "model.onnx"))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
    onnx.save(model, str(folder / "model.onnx"))


def turned_round(folder: Path) -> None:
    """1 - score, as after a swap of labels; its golden requests agree with it, so only traffic can tell."""
    rewrite(folder, lambda scores: ("Sub", ["the_one", scores]), np.float32(1.0))
    answers(folder, lambda scores: 1 - scores)


def constant(folder: Path) -> None:
    """The same score for everybody."""
    rewrite(folder, lambda scores: ("Mul", ["the_one", scores]), np.float32(0.0))
    answers(folder, lambda scores: scores * 0)


def rewrite(folder: Path, last: Callable[[str], tuple[str, list[str]]], value: np.float32) -> None:
    """Put one more operation behind the scores."""
    model = onnx.load(str(folder / "model.onnx"))
    for node in model.graph.node:
        node.output[:] = ["scores_before" if name == "scores" else name for name in node.output]
    operation, inputs = last("scores_before")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "the_one"))
    model.graph.node.append(helper.make_node(operation, inputs, ["scores"]))
    onnx.save(model, str(folder / "model.onnx"))


def answers(folder: Path, change: Callable[[Any], Any]) -> None:
    """The golden answers of a trainer that made the same mistake."""
    path = folder / "golden.safetensors"
    tensors = load_file(path)
    tensors["out.scores"] = change(tensors["out.scores"]).astype(np.float32)
    save_file(tensors, str(path))


FAULTS: dict[Spoil, str] = {
    other_bytes: "is not the file that its manifest names",
    truncated: "model",
    no_numbers: "golden",
    turned_round: "file_",
    constant: "spread",
}
"""What is done to a candidate, and a word of the reason it must be refused for."""
