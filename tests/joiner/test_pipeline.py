"""Ingest and joiner as processes on a real broker, killed at random: nothing is lost and nothing counts twice."""

import asyncio
import json
import random
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from freshrank.v1.events_pb2 import DeadLetter, Event, EventBatch, EventKind, Impression, ImpressionItem, Inbound

from services.common import records
from services.common.ids import partition_of
from services.common.kafka import Outbox, Tail
from services.common.records import CLOSED, FLIP, IMPRESSION, INITIAL, TICK
from services.common.tokens import Tokens
from services.common.topics import DEAD_LETTERS, EVENTS, EXAMPLES, INTERACTIONS, TOPICS
from services.demo.kafka import TopicSpec, create_topics
from services.demo.processes import Program
from services.demo.stack import Stack
from services.demo.tools import Tools

pytestmark = pytest.mark.pipeline

PARTITIONS = 2
KEYS = "1:" + "6b" * 16
TOKENS = Tokens.parse(KEYS)
WINDOW_S = 30
"""Longer than a kill and a restart on a busy machine: clicks that ingest forwards wait for it."""


@pytest.fixture
def urls() -> dict[str, str]:
    """Where each service answers probes; filled as they start."""
    return {}


@pytest.fixture
def stack(tools: Tools, tmp_path: Path, urls: dict[str, str]) -> Iterator[Stack]:
    """A broker with the topics, and both services."""
    with Stack(tmp_path, PARTITIONS, parts=["kafka"], tools=tools) as made:
        create_topics(made.kafka.bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in TOPICS])
        for service in ("ingest", "joiner"):
            port = made.take_port()
            urls[service] = f"http://127.0.0.1:{port}"
            made.supervisor.start(program(made, service, tmp_path / "store", port))
        for service in ("ingest", "joiner"):
            made.supervisor.wait_ready(service)
        yield made


def program(stack: Stack, service: str, store: Path, port: int) -> Program:
    """How a service is run here: short windows, frequent snapshots."""
    environment = {
        "FRESHRANK_BOOTSTRAP": stack.kafka.bootstrap,
        "FRESHRANK_STORE": str(store),
        "FRESHRANK_PARTITIONS": str(PARTITIONS),
        "FRESHRANK_TOKEN_KEYS": KEYS,
        "FRESHRANK_HTTP_PORT": str(port),
        "FRESHRANK_SNAPSHOT_S": "1",
        "FRESHRANK_INGEST_TICK_MS": "250",
        "FRESHRANK_INSTANCE": f"{service}-0",
        "FRESHRANK_JOINER_HEADS": f"click=CLICK@{WINDOW_S}s; cart=ADD_TO_CART@1d; purchase=PURCHASE@7d",
    }
    argv = (sys.executable, "-m", f"services.{service}")
    return Program(service, argv, environment, ready=lambda: answers(f"http://127.0.0.1:{port}/readyz"))


def answers(url: str) -> bool:
    """Whether a probe says yes."""
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


class Driver:
    """Writes impressions and events as the gateway and a careless shop would; remembers what was acknowledged."""

    def __init__(self, bootstrap: str) -> None:
        self._outbox = Outbox(bootstrap)
        self._noise = random.Random(7)
        self.impressions: dict[str, list[str]] = {}
        self.clicks: set[tuple[str, str]] = set()
        self.events: set[str] = set()
        self.bad = 0

    async def burst(self, count: int) -> None:
        """So many impressions with what follows them, all acknowledged."""
        sent: list[Any] = []
        for _ in range(count):
            now, number, user = time.time_ns() // 1000, len(self.impressions), f"user-{self._noise.randrange(40)}"
            shown = Impression(impression_id=f"{number:032x}", user_id=user, time_us=now)
            shown.items.extend(ImpressionItem(item_id=f"item-{n}", shown=True) for n in range(5))
            sent.append(self._send(Inbound(impression=shown, received_us=now), user))
            self.impressions[shown.impression_id] = [item.item_id for item in shown.items]
            token = TOKENS.issue(shown.impression_id, user, now)
            events = [
                Event(event_id=f"{number}-{kind}", kind=kind, user_id=user, item_id=f"item-{number % 5}",
                      event_time_us=now, attribution_token=token)
                for kind in (EventKind.EVENT_KIND_VIEW, EventKind.EVENT_KIND_CLICK)
            ]  # fmt: skip
            self.events |= {event.event_id for event in events}
            self.clicks.add((shown.impression_id, f"item-{number % 5}"))
            # Some in a batch on any partition, some twice.
            if number % 3 == 0:
                batch = Inbound(batch=EventBatch(events=events), received_us=now)
                sent.append(self._send(batch, user, partition=self._noise.randrange(PARTITIONS)))
            for event in events if number % 3 else events[:1]:
                sent.append(self._send(Inbound(event=event, received_us=now), user))
            if number % 10 == 0:
                sent.append(self._outbox.send(EVENTS.name, b"\xff\xfe", partition=0))
                self.bad += 1
        await asyncio.gather(*sent)

    def _send(self, inbound: Inbound, user: str, partition: int | None = None) -> Any:
        to = partition_of(user, PARTITIONS) if partition is None else partition
        return self._outbox.send(EVENTS.name, inbound.SerializeToString(), partition=to, key=user.encode())

    def close(self) -> None:
        """Stop sending."""
        self._outbox.close()


def read(bootstrap: str, topic: str) -> list[tuple[int, bytes]]:
    """Partition and value of every record of a topic."""
    tail = Tail(bootstrap, topic)
    try:
        return [(partition, value or b"") for partition, _, _, _, value in tail.until(tail.ends())]
    finally:
        tail.close()


def rows(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Rows of a columnar topic, each place once, as every consumer takes them."""
    out, taken = [], dict.fromkeys(range(PARTITIONS), (-1, -1))
    for partition, value in read(bootstrap, topic):
        for row in records.decode(value).to_pylist():
            place = (row["src_offset"], row["src_index"])
            if place[0] >= 0 and place > taken[partition]:
                taken[partition] = place
                out.append({**row, "partition": partition})
    return out


def until(done: Callable[[], bool], seconds: float) -> None:
    """Wait for something that other processes do."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.3)


def closed(bootstrap: str) -> int:
    """Impressions with final labels."""
    return sum(row["kind"] == CLOSED for row in rows(bootstrap, EXAMPLES.name))


async def test_nothing_is_lost_or_doubled_when_both_are_killed(stack: Stack) -> None:
    bootstrap = stack.kafka.bootstrap
    driver = Driver(bootstrap)
    for service in ("ingest", "joiner", "ingest", "joiner"):
        await driver.burst(60)
        stack.kill(service)
        await driver.burst(20)
        stack.restart(service)
    await driver.burst(20)
    driver.close()
    until(lambda: closed(bootstrap) == len(driver.impressions), WINDOW_S + 40)

    interactions = rows(bootstrap, INTERACTIONS.name)
    assert all(row["partition"] == partition_of(row["user"], PARTITIONS) for row in interactions)
    events = Counter(row["event_id"] for row in interactions if row["kind"] != IMPRESSION)
    assert events == Counter(driver.events)
    shown = Counter(row["event_id"] for row in interactions if row["kind"] == IMPRESSION)
    assert shown == Counter(list(driver.impressions))

    tail = Tail(bootstrap, EXAMPLES.name)
    assert {key for _, _, _, key, _ in tail.until(tail.ends())} == {b"click,cart,purchase"}
    tail.close()
    examples = rows(bootstrap, EXAMPLES.name)
    for kind in (INITIAL, CLOSED):
        assert Counter(r["impression_id"] for r in examples if r["kind"] == kind) == Counter(list(driver.impressions))
    flips = Counter(
        (row["impression_id"], Impression.FromString(row["impression"]).items[0].item_id)
        for row in examples
        if row["kind"] == FLIP
    )
    assert flips == Counter(driver.clicks)
    for row in examples:
        if row["kind"] == CLOSED:
            labels = dict(zip(driver.impressions[row["impression_id"]], row["labels"], strict=True))
            assert {item for item, bits in labels.items() if bits} == {
                item for impression, item in driver.clicks if impression == row["impression_id"]
            }

    letters = [DeadLetter.FromString(value) for _, value in read(bootstrap, DEAD_LETTERS.name)]
    places = {(letter.topic, letter.partition, letter.offset, letter.index) for letter in letters}
    assert len(places) == driver.bad
    assert {letter.reason for letter in letters} == {"malformed"}


async def test_ticks_move_the_clock_of_a_quiet_shop_and_positions_are_told(stack: Stack, urls: dict[str, str]) -> None:
    bootstrap = stack.kafka.bootstrap
    driver = Driver(bootstrap)
    await driver.burst(1)
    driver.close()
    until(lambda: closed(bootstrap) == 1, WINDOW_S + 20)
    assert closed(bootstrap) == 1
    ticks = [
        (partition, row["time_us"])
        for partition, value in read(bootstrap, INTERACTIONS.name)
        for row in records.decode(value).to_pylist()
        if row["kind"] == TICK
    ]
    for partition in range(PARTITIONS):
        times = [at for p, at in ticks if p == partition]
        assert times == sorted(set(times))
        assert 10 < len(times) < 400
    with urllib.request.urlopen(f"{urls['joiner']}/positions", timeout=2) as reply:
        told = json.load(reply)["applied"]
    assert set(told) == {f"{INTERACTIONS.name}-{p}" for p in range(PARTITIONS)}
    assert min(told.values()) > 10
