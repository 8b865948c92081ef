"""The service on real Kafka and Redis: values equal a plain computation through new features, SIGKILL, a lost store."""

import asyncio
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import Producer

from services.common.definitions import by_query
from services.common.plans import Plan, ViewPlan
from services.common.topics import TOPICS
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools
from services.features import commands
from services.online.keys import entity_keys
from services.online.reader import MatrixReader, Read
from services.online.registry import load_plan
from services.online.wire import Endpoint
from tests.features.makers import (
    HOUR,
    MINUTE,
    START,
    Key,
    Row,
    event,
    expected,
    exploded,
    given_up,
    impression,
    keyed,
    message,
    same,
    stayed,
    tick,
)  # fmt: skip

pytestmark = pytest.mark.pipeline

PARTITIONS = 2
SHIPPED = Path(__file__).parents[2] / "feature_repo"


class Loop:
    """The service beside what it needs; what is sent is remembered, so that it can be computed again."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.repo = folder / "feature_repo"
        self.port = stack.take_port()
        self.archive_s = 1
        self.rows: list[Row] = []
        self.logs: list[list[Row]] = [[] for _ in range(PARTITIONS)]
        self._producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "log_level": 0})
        self._offsets = [0] * PARTITIONS
        self._rng = np.random.default_rng(7)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the service."""
        return {
            "FRESHRANK_BOOTSTRAP": self.stack.kafka.bootstrap,
            "FRESHRANK_REDIS_URL": self.stack.redis.url,
            "FRESHRANK_STORE": str(self.folder / "store"),
            "FRESHRANK_FEATURE_REPO": str(self.repo),
            "FRESHRANK_PARTITIONS": str(PARTITIONS),
            "FRESHRANK_FEATURES_HTTP_PORT": str(self.port),
            "FRESHRANK_FEATURES_REGISTRY_S": "0.5",
            "FRESHRANK_FEATURES_SNAPSHOT_S": "1",
            "FRESHRANK_FEATURES_ARCHIVE_S": str(self.archive_s),
            "FRESHRANK_FEATURES_ARCHIVE_BLOCK": "10",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        """Run it."""
        argv = (sys.executable, "-m", "services.features")
        program = Program("features", argv, self.environment, Path.cwd(), lambda: bool(self.positions().get("ready")))
        self.stack.supervisor.start(program)
        self.stack.supervisor.wait_ready("features")

    def positions(self) -> dict[str, Any]:
        """What it says of itself; nothing while it is down."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/positions", timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (urllib.error.URLError, OSError, ValueError):
            return {}

    def send(self, count: int, at_us: int) -> None:
        """Random rows of twenty shoppers, a message to each partition."""
        for partition in range(PARTITIONS):
            batch = [self._row(partition, at_us + n) for n in range(count)]
            self.rows += batch
            self.logs[partition] += batch
            self._produce(partition, batch)
        self._producer.flush()

    def tick(self, at_us: int) -> None:
        """Move every clock."""
        for partition in range(PARTITIONS):
            self._produce(partition, [tick(at_us)])
        self._producer.flush()

    def _produce(self, partition: int, batch: list[Row]) -> None:
        one = message(self._offsets[partition], batch)
        self._offsets[partition] += 1
        self._producer.produce("interactions", one.value, partition=partition)

    def _row(self, partition: int, at_us: int) -> Row:
        rng = self._rng
        user, items = f"u{partition}-{rng.integers(20)}", [f"i{n}" for n in rng.integers(0, 15, 4)]
        asked = {"session": f"s-{user}", "query": f"q{rng.integers(4)}" if rng.random() < 0.5 else None}
        if rng.random() < 0.2:
            return impression(at_us, items, [f"c{item[-1]}" for item in items], user, **asked)
        if rng.random() < 0.1:
            return event(at_us, 6, user, **asked)
        kind = int(rng.choice([1, 2, 3, 4, 5]))
        numbers = {"price": float(rng.integers(1, 90)), "rating": 4.0 if kind == 5 else None}
        value = {"value": 9.5 if kind == 4 else None}
        texts = {"item": items[0], "category": f"c{items[0][-1]}", **asked}
        return event(at_us, kind, user, **texts, **numbers, **value)

    def settle(self) -> None:
        """Tick until everything has been applied and nothing waits."""
        still = 0
        self.clock_us = max(row["time_us"] for row in self.rows) + 1
        while still < 12:
            self.clock_us += 1
            self.tick(self.clock_us)
            time.sleep(0.2)
            applied = self.positions().get("applied", {})
            done = all(applied.get(f"interactions-{p}", 0) >= self._offsets[p] for p in range(PARTITIONS))
            still = still + 1 if done else 0

    def read(self, plan: Plan, view: ViewPlan, keys: list[Key], names: list[str]) -> dict[str, list[Any]]:
        """Values of the online store."""

        async def ask() -> dict[str, list[Any]]:
            reader = MatrixReader(Endpoint.from_url(self.stack.redis.url))
            columns = list(zip(*keys, strict=True))
            read = Read(view.name, entity_keys(plan.project, view.join_keys, *columns), objects=tuple(names))
            (rows,) = await reader.read([read], timeout_s=10, now_us=START)
            await reader.close()
            return {name: list(rows.objects[name]) for name in names}

        return asyncio.run(ask())

    def keyed(self, view: ViewPlan) -> dict[Key, list[Row]]:
        """Rows of each key of a view."""
        more = [row for log in self.logs for row in (*given_up(log), *stayed(log))] if by_query(view.join_keys) else []
        return keyed([*exploded(self.rows), *more], view.join_keys)

    def check(self) -> int:
        """Every value of every key equals a plain computation at its own clock; returns how many were compared."""
        plan, compared = load_plan(self.repo), 0
        for view in plan.views:
            by_key = self.keyed(view)
            found = self.read(plan, view, list(by_key), ["_clock", *(f.name for f in view.features)])
            for feature in view.features:
                for place, rows in enumerate(by_key.values()):
                    got, clock_us = found[feature.name][place], found["_clock"][place]
                    assert clock_us is not None, (view.name, list(by_key)[place])
                    want = expected(feature, rows, clock_us)
                    assert same(want, got), (view.name, feature.name, list(by_key)[place], want, got)
                    compared += 1
        return compared


@pytest.fixture
def loop(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """A running service of this test alone."""
    with Stack(tmp_path / "stack", partitions=PARTITIONS, parts=["kafka", "redis"], tools=tools) as stack:
        loop = Loop(stack, tmp_path)
        shutil.copytree(SHIPPED, loop.repo, ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / "store").mkdir()
        for name, value in loop.environment.items():
            monkeypatch.setenv(name, value)
        create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in TOPICS])
        commands.apply(loop.repo)
        loop.start()
        yield loop


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something to become true."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.1)


def test_values_equal_a_plain_computation_whatever_happens(loop: Loop) -> None:
    for step in range(10):
        loop.send(30, START + step * MINUTE)
    loop.settle()
    assert loop.check() > 3_000

    views = loop.repo / "views.py"
    clicks = 'count("clicks_5m", FIVE_MINUTES, CLICK),'
    assert clicks in views.read_text()
    added = 'count("likes_2h", (2 * HOUR, 5 * MINUTE), "kind == \'rate\'"),'
    views.write_text(views.read_text().replace(clicks, f"{clicks}\n        {added}"))
    before = loop.positions()["plan"]
    commands.apply(loop.repo)
    until(lambda: loop.positions().get("plan", before) != before)
    loop.send(30, START + 11 * MINUTE)
    loop.settle()
    assert "likes_2h" in [feature.name for feature in load_plan(loop.repo).view("user_stats").features]
    loop.check()

    views.write_text(views.read_text().replace("(2 * HOUR, 5 * MINUTE)", "(2 * HOUR, 7 * MINUTE)"))
    with pytest.raises(Exception, match="whole number of slides"):
        commands.apply(loop.repo)

    loop.send(30, START + 12 * MINUTE)
    loop.stack.kill("features")
    loop.send(30, START + 13 * MINUTE)
    loop.start()
    loop.settle()
    loop.check()

    redis.from_url(loop.stack.redis.url).flushall()
    loop.settle()
    loop.check()

    loop.tick(START + 2 * HOUR)
    loop.rows.append(tick(START + 2 * HOUR))
    loop.settle()
    loop.check()
    archive = loop.folder / "store" / "archive"
    assert {path.name for path in (archive / "features").iterdir()} == {
        view.name for view in load_plan(loop.repo).views
    }
    assert len(list((archive / "interactions").glob("*/*.parquet"))) >= PARTITIONS


def test_rows_that_wait_for_the_archive_are_in_it_after_a_stop(loop: Loop) -> None:
    loop.stack.supervisor.stop("features")
    loop.archive_s = 3600
    loop.start()
    loop.send(30, START)
    loop.settle()
    archive = loop.folder / "store" / "archive" / "features"
    assert list(archive.rglob("*.parquet")) == []
    loop.stack.supervisor.stop("features")
    plan = load_plan(loop.repo)
    for view in plan.views:
        names = [feature.name for feature in view.features]
        rows = sorted(pq.read_table(archive / view.name).to_pylist(), key=lambda row: row["_pos"])
        last = {tuple(row[name] for name in view.join_keys): row for row in rows}
        keys = list(loop.keyed(view))
        known = loop.read(plan, view, keys, ["_pos"])["_pos"]
        assert set(last) == {key for key, pos in zip(keys, known, strict=True) if pos is not None}
        stored = loop.read(plan, view, list(last), ["_pos", *names])
        for place, (key, row) in enumerate(last.items()):
            # A timestamp is a number of seconds in the store and a point in time in a file.
            found = [row[name].timestamp() if isinstance(row[name], datetime) else row[name] for name in names]
            assert (key, row["_pos"], found) == (key, stored["_pos"][place], [stored[name][place] for name in names])
