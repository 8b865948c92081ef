"""The page is written whatever a run has brought, and says what it has."""

import json
from pathlib import Path

import pytest

from services.demo.record import Answer, Record
from services.demo.report import write_report


def test_a_run_whose_model_had_nothing_to_learn_from_has_a_page(tmp_path: Path) -> None:
    """A log without clicks: the candidates' figures are not numbers, which JSON holds as null."""
    record = Record()
    record.answered(Answer(1_000_000, "", 0, "t", ["a", "b"], [0.5, 0.4], 3.0, (1.0, 1.0, 0.0, 0.0)))
    metrics = {"auc": None, "log_loss": 0.25, "ndcg_at_10": None}
    audit = [{"release": "r1", "decision": "refused", "reason": "<too young>", "metrics": metrics}]
    ledger = {"held": True, "checks": [{"name": "nothing lost", "held": True, "detail": "0 of 1"}]}
    page = write_report(tmp_path, "Freshrank: a log", {"answers": "1"}, record, [], audit, ledger).read_text()
    assert "<td>r1</td><td>refused</td><td>-</td><td>0.250</td><td>-</td><td>-</td><td>&lt;too young&gt;</td>" in page
    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    assert figures["ledger"] == ledger
    assert figures["releases"][0]["auc"] is None, "nobody clicked: there is no such figure"
