"""The text worker as a process: real Kafka, a catalogue, signals."""

import json
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from freshrank.v1.models_pb2 import CatalogueItem

from docs.panels import DASHBOARDS
from services.common.topics import EXAMPLES, ITEM_UPDATES
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.text.folder import Encoder, read
from services.text.names import ENCODER_ID, incoming
from services.trainer.text.app import folder_of
from services.trainer.text.load import load
from tests.trainer.text import tiny
from tests.trainer.text.searching import ITEMS, Searches

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[3]
PARTITIONS = 2


class Service:
    """A worker, the broker it reads from and the shop that is searched."""

    def __init__(self, folder: Path, stack: Stack, port: int) -> None:
        self.store, self.stack, self.url = folder / "store", stack, f"http://127.0.0.1:{port}"
        self.model = tiny.folder(folder / "model")
        self._shop = Searches()
        self._producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "log_level": 0})
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        for item, title in ITEMS.items():
            value = CatalogueItem(item_id=item, title=title).SerializeToString()
            self._producer.produce(ITEM_UPDATES.name, value, key=f"c|{item}".encode())
        self._arrived()

    def searched(self, times: int) -> None:
        """More searches, into every partition in turn."""
        for value in self._shop.messages(times):
            self._send(value)
        self._arrived()

    def forget(self, user: str) -> None:
        """A shopper asks to be forgotten."""
        self._send(self._shop.forget(user))
        self._arrived()

    def _send(self, value: bytes) -> None:
        partition = sum(self.ends.values()) % PARTITIONS
        self._producer.produce(EXAMPLES.name, value, partition=partition)
        self.ends[partition] += 1

    def _arrived(self) -> None:
        assert self._producer.flush(60) == 0

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"{self.url}/{path}", timeout=2) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    def positions(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("positions") or "{}")
        return found

    def caught_up(self) -> bool:
        return self.positions().get("applied") == {f"{EXAMPLES.name}-{p}": end for p, end in self.ends.items()}

    def encoders(self) -> list[Encoder]:
        """In the order of making."""
        folder = incoming(self.store)
        found = folder.iterdir() if folder.is_dir() else iter(())
        return [read(path) for path in sorted(found) if ENCODER_ID.fullmatch(path.name)]


def until(reached: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def service(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("encoder")
    stack = Stack(folder / "stack", PARTITIONS, parts=["kafka"], tools=tools)
    with stack:
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in (EXAMPLES, ITEM_UPDATES)])
        port = stack.take_port()
        made = Service(folder, stack, port)
        variables = {
            "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
            "FRESHRANK_STORE": str(made.store),
            "FRESHRANK_TRAINER_HTTP_PORT": str(port),
            "FRESHRANK_TRAINER_TEXT_MODEL": str(made.model),
            "FRESHRANK_TRAINER_TEXT_WAY": "lora(4, 8, 0.01), replay(40)",
            "FRESHRANK_TRAINER_TEXT_PAIRS": "40",
            "FRESHRANK_TRAINER_TEXT_BATCH": "8",
            "FRESHRANK_TRAINER_TEXT_INTERVAL": "1",
            "FRESHRANK_TRAINER_TEXT_MAX_TOKENS": "16",
            "OMP_NUM_THREADS": "1",
        }
        argv = (sys.executable, "-m", "services.trainer", "text")
        ready = lambda: '"ready": true' in made.get("positions")  # noqa: E731
        stack.supervisor.start(Program("text", argv, variables, cwd=ROOT, ready=ready, ready_seconds=240))
        stack.supervisor.wait_ready("text")
        yield made


def test_searches_become_encoders_that_wait_to_be_judged(service: Service) -> None:
    service.searched(100)
    until(service.caught_up)
    until(lambda: service.positions()["pairs_learned"] >= 100)
    until(lambda: any(one.metrics["pairs"] >= 100 for one in service.encoders()))
    last = service.encoders()[-1]
    assert last.parent == load(str(service.model), 16).about.source != last.source
    assert {"ndcg10", "base_ndcg10", "early_mrr", "early_base_mrr", "lists"} <= last.metrics.keys()
    text = service.get("metrics")
    queries = " ".join(query for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.promql)
    watched = set(re.findall(r"freshrank_trainer_text_[a-z_]+", queries))
    assert "freshrank_trainer_text_pairs_total" in watched
    assert [name for name in watched if name not in text] == []
    assert f"freshrank_trainer_text_items {float(len(ITEMS))}" in text


def test_killed_it_goes_on_where_it_stood(service: Service) -> None:
    until(service.caught_up)
    learned = service.positions()["pairs_learned"]
    service.searched(60)
    until(lambda: service.positions().get("pairs_learned", 0) > learned)
    service.stack.kill("text")
    service.searched(60)
    service.stack.restart("text")
    until(service.caught_up)
    pairs = 220 + 220 // 5  # every search has a click, every fifth one a purchase
    until(lambda: service.positions()["pairs_learned"] + service.positions()["pairs_waiting"] == pairs)
    until(lambda: service.positions()["pairs_waiting"] < 8)
    until(lambda: service.encoders()[-1].metrics["pairs"] == service.positions()["pairs_learned"])
    sources = [one.source for one in service.encoders()]
    assert len(sources) == len(set(sources))


def test_forgotten_shoppers_leave_its_files_and_it_ends_in_good_order(service: Service) -> None:
    folder = folder_of(service.store)
    checkpoints = lambda: sorted(path for path in folder.iterdir() if path.name.isdigit())  # noqa: E731
    before = {path.name for path in checkpoints()}
    for number in range(12):
        service.forget(f"user-{number}")
    until(service.caught_up)
    until(lambda: before.isdisjoint(path.name for path in checkpoints()))
    assert service.stack.supervisor.running("text")
    os.kill(service.stack.supervisor.pid("text"), signal.SIGTERM)
    until(lambda: not service.stack.supervisor.running("text"))
    body = json.loads(json.loads((checkpoints()[-1] / "state.json").read_text())["body"])
    progress = body["meta"]["progress"]
    assert (progress["waiting"], progress["early"]) == ([], [])
    assert dict(progress["positions"]) == service.ends
