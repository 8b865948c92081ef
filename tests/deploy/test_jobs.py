"""The jobs of the chart do what they are there for: their rendered commands, run here with the parts' own addresses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.kafka import admin
from services.common.topics import TOPICS
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.online.registry import load_plan
from tests.deploy.manifests import ROOT, base, pods, variables


def run_job(name: str, **places: str) -> subprocess.CompletedProcess[str]:
    """Run the first container of a job as Kubernetes would, with what lies elsewhere here put in place."""
    objects = base()
    container = dict(pods(objects))[name]["containers"][0]
    given = {key: value for key, value in variables(objects, container).items() if value is not None}
    command = [sys.executable, *container["command"][1:]]
    return subprocess.run(command, cwd=ROOT, env=os.environ | given | places, capture_output=True, text=True)


@pytest.mark.pipeline
def test_topics_are_created_once_and_stay(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["kafka"], tools=tools) as stack:
        for _ in range(2):
            ended = run_job("create-topics", FRESHRANK_BOOTSTRAP=stack.kafka.bootstrap)
            assert ended.returncode == 0, ended.stderr
        found = admin(stack.kafka.bootstrap).list_topics(timeout=10).topics
        partitions = {topic.name: len(found[topic.name].partitions) for topic in TOPICS}
    assert partitions == {topic.name: 1 if topic.single else 4 for topic in TOPICS}


@pytest.mark.pipeline
def test_topics_with_another_number_of_partitions_are_a_failure(tools: Tools, tmp_path: Path) -> None:
    with Stack(tmp_path, parts=["kafka"], tools=tools) as stack:
        run_job("create-topics", FRESHRANK_BOOTSTRAP=stack.kafka.bootstrap)
        ended = run_job("create-topics", FRESHRANK_BOOTSTRAP=stack.kafka.bootstrap, FRESHRANK_PARTITIONS="8")
    assert ended.returncode == 1
    assert "has 4 partitions, not 8" in ended.stderr


@pytest.mark.pipeline
def test_definitions_are_in_the_registry_after_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"FRESHRANK_STORE": str(tmp_path), "FRESHRANK_FEATURE_REPO": str(ROOT / "feature_repo")}
    ended = run_job("apply-features", **places, FRESHRANK_REDIS_URL="redis://127.0.0.1:1")
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setenv("FRESHRANK_STORE", str(tmp_path))
    assert len(load_plan(ROOT / "feature_repo").definitions()) >= 25
    assert "Changed: 0" in run_job("apply-features", **places).stdout
