"""The whole publisher as a process, between real Kafka, Redis and Triton: a story from the first row to a rollback."""

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from confluent_kafka import Producer
from freshrank.v1.events_pb2 import Impression
from freshrank.v1.models_pb2 import Command, Freeze, ItemRow, RollbackReleaseRequest, Route

from services.cli.kafka import TopicSpec, create_topics
from services.common import records
from services.common.kafka import Tail
from services.common.topics import COMMANDS, EXAMPLES, ITEM_UPDATES, ROUTES, TOPICS
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.online.keys import entity_key, feature_field, ord_field
from services.publisher.audit import Audit
from services.publisher.replay import Closed
from tests.publisher.exports import Net, export, figures, noisy, window, write_delta

pytestmark = pytest.mark.pipeline

ONES, TWOS = [1.0] * 4, [2.0] * 4
NET = Net(rows=0.0)


@dataclass
class Story:
    """One publisher, and what a trainer, a joiner and a gateway would do around it."""

    stack: Stack
    store: Path
    port: int
    producer: Producer
    routes: Tail
    updates: Tail
    route: Route = field(default_factory=Route)
    rows: dict[str, ItemRow | None] = field(default_factory=dict)
    made: int = 0

    @property
    def arm(self) -> Path:
        return self.store / "arms" / "main"

    def positions(self) -> dict[str, Any]:
        """What it says about itself."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/positions", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def look(self) -> None:
        """Read what came on the topics."""
        for record in self.routes.poll(timeout_s=0.05):
            self.route = Route.FromString(record[4] or b"")
        for record in self.updates.poll(timeout_s=0.05):
            value = record[4]
            self.rows[(record[3] or b"").decode()] = None if value is None else ItemRow.FromString(value)

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 30) -> float:
        """Wait for something; returns the seconds it took."""
        began = time.monotonic()
        while True:
            self.look()
            if holds():
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, (
                f"{what}: {self.refusals()} {self.stack.supervisor.log_path('publisher').read_text()[-3000:]}"
            )

    def show(self, closed: list[Closed]) -> None:
        """Let the joiner send examples: each impression as it appears, its clicks, and final labels at the end."""
        rows = [row for c in closed for row in opened(c)] + [final(c) for c in closed]
        for start in range(0, len(rows), 200):
            part = rows[start : start + 200]
            columns: dict[str, object] = {name: [row[name] for row in part] for name in part[0]}
            columns["src_offset"] = [self.made + k for k in range(len(part))]
            self.made += len(part)
            self.producer.produce(
                EXAMPLES.name, records.encode(records.batch_of(records.EXAMPLES, columns)), partition=0
            )
        assert self.producer.flush(20) == 0

    def command(self, command: Command) -> None:
        self.producer.produce(COMMANDS.name, command.SerializeToString(), key=b"x")
        assert self.producer.flush(20) == 0

    def stored(self, item: str, slot: str) -> tuple[bytes | None, bytes | None]:
        """Value and order of an item's row as they lie in Redis."""
        client = redis.Redis.from_url(self.stack.redis.url)
        view = f"item_row_{slot}"
        key = entity_key("freshrank", ("item_id",), (item,))
        value, order = client.hmget(key, [feature_field(view, "row"), ord_field(view)])  # type: ignore[misc]
        client.close()
        return value, order

    def refusals(self) -> list[str]:
        return [str(entry.get("reason")) for entry in self._entries()]

    def audited(self) -> list[str]:
        return [entry["decision"] for entry in self._entries()]

    def _entries(self) -> list[dict[str, Any]]:
        """Whole lines: the publisher may be writing one."""
        return Audit(self.store / "releases" / "audit.jsonl").entries()


def example(kind: int, shown: Impression, items: Sequence[int], labels: Sequence[int]) -> dict[str, Any]:
    return {
        "src_index": 0,
        "kind": kind,
        "time_us": shown.time_us,
        "impression_id": shown.impression_id,
        "user": shown.user_id,
        "items": list(items),
        "labels": list(labels),
        "weights": [1.0] * len(items),
        "impression": shown.SerializeToString(),
    }


def opened(closed: Closed) -> Iterator[dict[str, Any]]:
    """The rows of an impression while its window is open: a flip carries only the items it is about."""
    shown = closed.impression
    yield example(records.INITIAL, shown, closed.items, [0] * len(closed.items))
    for index, bits in zip(closed.items, closed.labels, strict=True):
        if bits:
            part = Impression(impression_id=shown.impression_id, time_us=shown.time_us, items=[shown.items[index]])
            yield example(records.FLIP, part, [0], [bits])


def final(closed: Closed) -> dict[str, Any]:
    """The row at the end of the window."""
    return example(records.CLOSED, closed.impression, closed.items, closed.labels)


@pytest.fixture
def story(tools: Tools, tmp_path: Path) -> Iterator[Story]:
    store = tmp_path / "store"
    with Stack(tmp_path / "stack", partitions=2, tools=tools, model_repository=store / "triton") as stack:
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, 2) for topic in TOPICS])
        port = stack.take_port()
        variables = {
            "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
            "FRESHRANK_REDIS_URL": stack.redis.url,
            "FRESHRANK_TRITON": stack.triton.grpc_address,
            "FRESHRANK_STORE": str(store),
            "FRESHRANK_PUBLISHER_HTTP_PORT": str(port),
            "FRESHRANK_PUBLISHER_ROW_DIM": "4",
            "FRESHRANK_PUBLISHER_DRAIN_S": "1",
            "OMP_NUM_THREADS": "1",
        }

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        argv = (sys.executable, "-m", "services.publisher")
        stack.supervisor.start(Program("publisher", argv, variables, ready=ready))
        stack.supervisor.wait_ready("publisher")
        producer = Producer({"bootstrap.servers": stack.kafka.bootstrap})
        routes, updates = (Tail(stack.kafka.bootstrap, topic.name) for topic in (ROUTES, ITEM_UPDATES))
        yield Story(stack, store, port, producer, routes, updates)
        routes.close()
        updates.close()


def test_from_the_first_row_to_a_rollback(story: Story) -> None:
    closed = window(1200, 7)
    deltas, exports = story.arm / "deltas", story.arm / "exports"

    # Rows reach the online store and those who keep tables of their own.
    write_delta(deltas, 1, {"shoe": ONES, "hat": ONES}, {"ann": ONES})
    assert story.until(lambda: "r|a|shoe" in story.rows, "row") < 3
    assert story.stored("shoe", "a")[1] == (1).to_bytes(4, "big") + (1).to_bytes(8, "big")
    story.until(lambda: story.positions()["pushed_seq"] == 1, "book")  # written behind the rows

    # The first release: nothing to compare with.
    story.show(closed)
    story.until(lambda: story.positions()["impressions"] >= 1000, "impressions")
    first = export(exports, NET, figures(NET, None, closed), seq=1, second=1).name
    story.until(lambda: story.route.champion == first, "first release")

    # The second is judged against it, and the first one stays on a share of the shoppers.
    better = noisy(NET, 0.003, 1)
    second = export(exports, better, figures(better, NET, closed), seq=2, second=2, parent=first).name
    took = story.until(lambda: story.route.champion == second, "second release")
    assert took < 15
    assert (story.route.previous, round(story.route.watch_share, 3)) == (first, 0.02)

    # One whose file is not what the learner's figures are of stops at the gate.
    bad = export(exports, noisy(NET, 1.0, 2), figures(better, better, closed), seq=3, second=3, parent=second).name
    story.until(lambda: "refused" in story.audited(), "refusal")
    assert story.route.champion == second
    assert not (story.store / "releases" / bad).exists()

    # Redis loses everything: the rows come back.
    before = story.stored("shoe", "a")
    client = redis.Redis.from_url(story.stack.redis.url)
    client.flushall()
    client.close()
    story.until(lambda: story.stored("shoe", "a") == before, "rows again", 10)
    story.until(lambda: not story.positions()["rows_lost"], "loss over")

    # Killed and started again, it says the same.
    story.stack.kill("publisher", signal.SIGKILL)
    story.stack.restart("publisher")
    assert story.positions()["champion"] == second
    write_delta(deltas, 2, {"shoe": TWOS})
    story.until(lambda: story.positions()["pushed_seq"] == 2, "row after restart")

    # A bad delta never reaches the store, and answers say that rows are frozen.
    write_delta(deltas, 3, {"shoe": [float("nan")] * 4})
    story.until(lambda: story.route.freeze.rows, "stop")
    assert "finite" in story.route.freeze.reason
    assert story.rows["r|a|shoe"] is not None
    assert list(story.rows["r|a|shoe"].row) == TWOS

    # A person rolls back: the old release at once, then its rows in the other slot, and the trainer is fenced.
    story.command(Command(rollback=RollbackReleaseRequest(actor="ada", reason="odd")))
    story.until(lambda: story.route.champion == first, "rollback")
    story.until(lambda: (story.route.slot, story.route.epoch) == ("b", 2), "other slot")
    story.until(lambda: "r|b|shoe" in story.rows, "rows in the other slot")
    assert list(story.rows["r|b|shoe"].row) == ONES  # type: ignore[union-attr]
    control = json.loads((story.arm / "control.json").read_text())
    assert (control["lineage"], control["epoch"], control["slot"]) == (2, 2, "b")
    assert (control["from_checkpoint"], control["accepted"][-1]) == ("1-1", first)
    assert second in control["refused"]

    # The new lineage goes on from there; the old one is not listened to.
    write_delta(deltas, 4, {"shoe": TWOS})
    write_delta(deltas, 1, {"hat": TWOS}, epoch="2")
    story.until(lambda: story.positions()["pushed_seq"] == 1, "row of the new lineage")
    story.until(lambda: list((story.rows["r|b|hat"] or ItemRow()).row) == TWOS, "row of the new lineage")
    assert list(story.rows["r|b|shoe"].row) == ONES  # type: ignore[union-attr]

    # Frozen is frozen, and shows.
    story.command(Command(freeze=Freeze(rows=True, releases=True, learning=True, actor="ada", reason="sale")))
    story.until(lambda: story.route.freeze.learning, "freeze")
    assert json.loads((story.arm / "control.json").read_text())["freeze_learning"]
    assert np.isfinite([float(story.route.watch_share)]).all()
    assert story.stack.supervisor.exits() == []
