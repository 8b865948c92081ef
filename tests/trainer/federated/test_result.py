"""What a federation has learned enters the loop: an arm begins with it, and its release goes through the gate."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from services.common.clock import ManualClock
from services.publisher import manifest as manifests
from services.publisher.examine import Situation, examine
from services.publisher.gate import GateBounds
from services.publisher.onnx_file import FileBounds
from services.publisher.replay import Closed, Replay
from services.trainer.app import begin
from services.trainer.federated.rounds import Plan, federate
from services.trainer.triggers import VolumeTrigger
from tests.trainer.arm import Recorder, arm, run, settings
from tests.trainer.federated.shops import coordinator, grid_of, place, world
from tests.trainer.world import FileSource


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two shops with the same items and tastes, and lists of their own."""
    folder = tmp_path_factory.mktemp("federation")
    middle = coordinator(folder)
    shops = [place(folder, f"shop{seed}", seed, messages=300, shared=True) for seed in (1, 2)]
    federate(grid_of(*shops), middle, Plan(rounds=5, messages=60), ManualClock())
    return Path(middle.checkpoint)


def learned(folder: Path, messages: int, **changes: object) -> tuple[Path, Recorder, object]:
    """An arm that learned so many messages of the same taste: its folder, what it told, its learner."""
    source, seen = FileSource({0: world(3, 90_000, shared=True).messages(messages)}), Recorder()
    chosen = settings(admission=1, **changes)
    loop, clock = arm(
        folder, source, trigger=VolumeTrigger(10**9), observer=seen, chosen=chosen, start=partial(begin, chosen)
    )
    while not source.done:
        loop.turn()
    loop.release()
    run(loop, clock, source)
    return loop.arm.paths.exports / seen.releases[-1], seen, loop.arm.learner


def test_an_arm_that_begins_with_it_is_ahead_from_the_first_lists_on(tmp_path: Path, checkpoint: Path) -> None:
    taught = manifests.read(learned(tmp_path / "taught", 60, transfer_from=checkpoint)[0]).metrics
    fresh = manifests.read(learned(tmp_path / "fresh", 60)[0]).metrics
    assert taught["auc"] > fresh["auc"] + 0.05
    assert taught["log_loss"] < fresh["log_loss"]


def test_its_release_passes_the_gate(tmp_path: Path, checkpoint: Path) -> None:
    folder, _, learner = learned(tmp_path, 400, transfer_from=checkpoint)
    shop, replay = world(4, 95_000, shared=True), Replay(400)
    for _ in range(400):
        impression, clicked = shop.impression()
        count = len(impression.items)
        replay.add(Closed(impression, tuple(range(count)), tuple(int(k in clicked) for k in range(count))))
    manifest = manifests.read(folder)
    now = Situation(None, replay.snapshot(), learner.tables, 10**9, manifest.learned_up_to_us)  # type: ignore[attr-defined]
    found = examine(manifest, 1, folder, now, GateBounds(), FileBounds())
    assert found.passed, found.reason
    assert {"file_log_loss", "file_spread"} & {check.name for check in found.checks}
    assert math.isfinite(manifest.metrics["auc"])
    assert np.isfinite(learner.tables.item.rows).all()  # type: ignore[attr-defined]
