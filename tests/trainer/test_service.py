"""The trainer as a process: real Kafka, a real registry, signals."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from services.common.spec import ModelSpec
from services.common.topics import EXAMPLES
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.online.registry import load_plan
from services.online.repository import apply_repository
from services.publisher import deltas, manifest
from tests.trainer.world import Shop

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[2]
PARTITIONS = 2


class Service:
    """A trainer, the broker it reads from and the shop that fills it."""

    def __init__(self, folder: Path, stack: Stack, port: int) -> None:
        self.store, self.stack, self.url = folder / "store", stack, f"http://127.0.0.1:{port}"
        ranking = load_plan(ROOT / "feature_repo").ranking
        self.spec = ModelSpec(ranking.user, ranking.item)
        self._shop = Shop(items=30, users=20, spec=self.spec)
        self._producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "log_level": 0})
        self.ends = dict.fromkeys(range(PARTITIONS), 0)

    @property
    def arm(self) -> Path:
        return self.store / "arms/main"

    def shows(self, impressions: int) -> None:
        """More impressions with their clicks, into every partition in turn."""
        for number, value in enumerate(self._shop.messages(impressions)):
            partition = number % PARTITIONS
            self._producer.produce(EXAMPLES.name, value, partition=partition)
            self.ends[partition] += 1
        self._producer.flush(20)

    def positions(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/positions", timeout=2) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except OSError:
            return {}

    def caught_up(self) -> bool:
        return self.positions().get("applied") == {f"{EXAMPLES.name}-{p}": end for p, end in self.ends.items()}

    def exports(self) -> list[Path]:
        return sorted(self.arm.glob("exports/r*/manifest.json"))

    def pushed(self) -> list[deltas.DeltaName]:
        return deltas.listed(self.arm / "deltas")


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def service(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("trainer")
    stack = Stack(folder / "stack", PARTITIONS, parts=["kafka"], tools=tools)
    with stack, pytest.MonkeyPatch.context() as patch:
        port = stack.take_port()
        for name, value in {
            "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
            "FRESHRANK_STORE": str(folder / "store"),
            "FRESHRANK_FEATURE_REPO": str(ROOT / "feature_repo"),
            "FRESHRANK_TRAINER_HTTP_PORT": str(port),
            "FRESHRANK_TRAINER_UPDATE_INTERVAL": "1",
            "FRESHRANK_TRAINER_PUSH_INTERVAL": "0.2",
            "FRESHRANK_TRAINER_MAX_ROWS": "10000",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        (folder / "store").mkdir()
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(EXAMPLES, PARTITIONS)])
        apply_repository(ROOT / "feature_repo")
        made = Service(folder, stack, port)
        argv = (sys.executable, "-m", "services.trainer")
        stack.supervisor.start(Program("trainer", argv, cwd=ROOT, ready=lambda: answers(f"{made.url}/readyz")))
        stack.supervisor.wait_ready("trainer")
        yield made


def test_examples_become_rows_and_releases_that_the_publisher_reads(service: Service) -> None:
    service.shows(200)
    until(service.caught_up)
    until(lambda: bool(service.exports()))
    found = manifest.read(service.exports()[-1].parent)
    assert found.spec.user_features == service.spec.user_features
    assert found.spec.feature_service.startswith("ranking@")
    until(lambda: service.positions()["delta_seq"] >= 1)
    delta = deltas.read(service.arm / "deltas", service.pushed()[-1])
    assert delta.name.seq == service.positions()["delta_seq"]
    assert set(delta.items.ids) <= {f"item-{k}" for k in range(30)}
    assert any((service.arm / "tensorboard").iterdir())


def test_a_second_trainer_of_the_same_arm_ends_at_once(service: Service) -> None:
    environment = {**os.environ, "FRESHRANK_TRAINER_HTTP_PORT": "0"}
    argv = [sys.executable, "-m", "services.trainer"]
    ended = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "another trainer" in ended.stderr


def test_killed_and_started_again_it_goes_on_and_no_delta_comes_twice(service: Service) -> None:
    for _ in range(2):
        learned = service.positions()["examples_learned"]
        service.shows(100)
        time.sleep(0.2)  # somewhere inside: where exactly is what the test does not know
        before = service.pushed()
        service.stack.supervisor.kill("trainer", signal.SIGKILL)
        service.stack.supervisor.restart("trainer")
        until(service.caught_up)
        assert service.positions()["examples_learned"] > learned
        assert service.pushed()[: len(before)] == before


def test_metrics_and_freezing(service: Service) -> None:
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=2) as response:
        text = response.read().decode()
    assert "freshrank_trainer_steps_total" in text
    assert "user-" not in text
    control = {"lineage": 1, "epoch": 1, "slot": "a", "freeze_learning": True}
    (service.arm / "control.json").write_text(json.dumps(control))
    time.sleep(1.0)  # longer than the trainer takes to look
    service.shows(10)
    time.sleep(1.0)
    assert not service.caught_up()
    (service.arm / "control.json").unlink()
    until(service.caught_up)


def test_told_to_stop_it_saves_and_ends_well(service: Service) -> None:
    service.stack.supervisor.stop("trainer")
    with subprocess.Popen([sys.executable, "-m", "services.trainer"], cwd=ROOT) as process:
        service.shows(20)
        until(service.caught_up)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    newest = max(service.arm.glob("checkpoints/*-*"), key=lambda path: [int(n) for n in path.name.split("-")])
    body = json.loads(json.loads((newest / "state.json").read_text())["body"])
    assert body["positions"] == {str(p): end for p, end in service.ends.items()}
