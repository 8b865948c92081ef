"""Two arms at once on real parts: the planted better one is promoted by the trial, and the ledger holds."""

import json
from pathlib import Path

import pytest

from services.demo.arms import ArmPlan
from services.demo.run import Options, run
from services.demo.traffic import Pace

pytestmark = [pytest.mark.pipeline, pytest.mark.long]


async def test_a_planted_better_arm_is_promoted_and_answers_everybody(tmp_path: Path) -> None:
    """The first arm puts what is clicked least on top: a wrong objective, which no gate on its scores can see."""
    options = Options(
        folder=tmp_path / "run",
        report=tmp_path / "report",
        pace=Pace(seconds=60, events_per_second=120, sessions_per_second=6),
        settings={"FRESHRANK_TRAINER_OBJECTIVE": '{"click": -1}'},
        arms=(ArmPlan("better", {"objective": '{"click": 1}', "seed": "2"}),),
    )
    assert await run(options) == 0
    assert json.loads((tmp_path / "report" / "ledger.json").read_text())["held"]
    entries = [json.loads(line) for line in (tmp_path / "run/store/releases/audit.jsonl").read_text().splitlines()]
    decided = [entry for entry in entries if entry["decision"] in ("trial_started", "arm_promoted", "arm_dropped")]
    assert [entry["decision"] for entry in decided] == ["trial_started", "arm_promoted"]
    assert decided[1]["figures"]["lift_low"] > 0
    book = json.loads((tmp_path / "run/store/snapshots/publisher/arms.json").read_text())
    assert (book["incumbent"], book["split"]["challengers"]) == ("better", [])
