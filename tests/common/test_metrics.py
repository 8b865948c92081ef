"""Metrics of several processes on one page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.common.metrics import Metrics, gone, whole

ROOT = Path(__file__).parents[2]
COUNTS = """
import sys
from services.common.metrics import Metrics
metrics = Metrics("gateway")
metrics.counter("calls_total", "calls", ("method",)).labels("Rank").inc(int(sys.argv[1]))
metrics.gauge("items", "items").set(int(sys.argv[1]))
metrics.histogram("seconds", "time").observe(0.02)
"""


def test_alone_a_process_shows_its_own() -> None:
    metrics = Metrics("gateway")
    assert whole(metrics.registry) is metrics.registry


def test_counts_of_several_processes_are_added_and_stay_when_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    ended = [
        subprocess.Popen([sys.executable, "-c", COUNTS, number], cwd=ROOT, env=dict(os.environ)) for number in "35"
    ]
    assert [process.wait(60) for process in ended] == [0, 0]
    assert shown()["freshrank_gateway_items"] == 5
    gone(ended[1].pid)
    page = shown()
    assert page['freshrank_gateway_calls_total{method="Rank"}'] == 8
    assert page["freshrank_gateway_items"] == 3
    assert page["freshrank_gateway_seconds_count"] == 2
    assert page['freshrank_gateway_seconds_bucket{le="0.025"}'] == 2


def shown() -> dict[str, float]:
    lines = generate_latest(whole(CollectorRegistry())).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
