"""Strategies in turn on real parts: by one setting, each through the gates, and the ledger holds at the end."""

import json
from pathlib import Path

import pytest

from services.demo.run import Options, run
from services.demo.traffic import Pace

pytestmark = [pytest.mark.pipeline, pytest.mark.long]

STRATEGIES = (
    "replay(2000, 0.2)",
    "ewc(10)",
    "distillation(0.3, 2)",
    "fusion(0.7)",
    "hypergradient()",
    "lora(4, 8)",
    "adversarial(0.1, 0.5)",
)


async def test_a_release_of_every_strategy_serves_and_the_ledger_holds(tmp_path: Path) -> None:
    options = Options(folder=tmp_path / "run", report=tmp_path / "report", pace=Pace(seconds=90), strategies=STRATEGIES)
    assert await run(options) == 0
    assert json.loads((tmp_path / "report" / "ledger.json").read_text())["held"]
