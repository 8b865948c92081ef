"""Ingest and features end to end against a stock Faust agent and a bare consumer, events a second.

    python -m benchmarks.streams --out streams.json [--quick] [--rounds 5] [--events 40000] [--stock-events 2000]

One real broker and one real Redis; the events are on the log before a way begins, one record each, the same bytes.

- floor: a confluent-kafka consumer that parses each record, and nothing else
- stock: one Faust agent that takes event by event, keeps four counts per user in a dict, and writes them by Feast's
  `store.push` with Feast's own Redis store; the events of a twentieth of the users, because it takes that long
- ours: `services.ingest` and `services.features` as processes, all features of all views, no shortcut

The ways take turns. Stock is timed by itself from its first event to the answer to its last push; ours from the
last look at its positions before they moved until the positions of features have reached the end of both logs.
At the end the four counts of every user of stock are read by Feast's SDK from both stores, and must be equal to each
other and to a plain count.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faust
import pandas as pd
from confluent_kafka import Consumer, Producer, TopicPartition
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.types import Int64, String
from freshrank.v1 import events_pb2

from benchmarks.machine import ROOT, spread, write_json
from services.common.ids import partition_of
from services.common.topics import EVENTS, INTERACTIONS, ITEM_INTERACTIONS, TOPICS
from services.demo.cache import Progress, default_folder
from services.demo.follow import Follower
from services.demo.kafka import TopicSpec, create_topics
from services.demo.services import environment, plan_of, program
from services.demo.stack import Stack
from services.demo.tools import fetch
from services.features import commands
from services.online.registry import repo_config

PARTITIONS = 2
STOCK_TOPIC = "stock.events"
PER_USER = 40
SPAN_S = 25 * 60
"""Event times lie in so many seconds before the round: inside the shortest window that is compared."""
COUNTS = {
    events_pb2.EVENT_KIND_CLICK: "clicks_1h",
    events_pb2.EVENT_KIND_SEARCH: "searches_1h",
    events_pb2.EVENT_KIND_ADD_TO_CART: "carts_1d",
    events_pb2.EVENT_KIND_PURCHASE: "purchases_30d",
}
"""What is compared: features of our `user_stats`, and what the stock agent counts."""
KINDS = (*COUNTS, events_pb2.EVENT_KIND_VIEW)
WAIT_S = 180.0


@dataclass(frozen=True)
class Sent:
    """A user and the record."""

    user: str
    kind: int
    value: bytes


def make(turn: int, count: int, now_us: int) -> list[Sent]:
    """Events in the order of time: each user a few dozen, evenly, so that nobody looks like a program."""
    users, chosen = max(1, count // PER_USER), random.Random(turn)
    out = []
    for number in range(count):
        event = events_pb2.Event(
            event_id=f"bench-{turn}-{number}",
            kind=chosen.choice(KINDS),
            user_id=f"bench-{turn}-{number % users:05d}",
            session_id=f"visit-{turn}-{number % users:05d}",
            item_id=f"item-{chosen.randrange(500)}",
            event_time_us=now_us - (SPAN_S * 1_000_000 * (count - number)) // count,
            source="bench",
        )
        if event.kind == events_pb2.EVENT_KIND_SEARCH:
            event.query = "shoes"
        inbound = events_pb2.Inbound(event=event, received_us=now_us)
        out.append(Sent(event.user_id, event.kind, inbound.SerializeToString()))
    return out


def first_users(events: Sequence[Sent], count: int) -> list[Sent]:
    """All events of as many users as make about `count`."""
    users = sorted({event.user for event in events})
    kept = set(users[: max(1, count // PER_USER)])
    return [event for event in events if event.user in kept]


def counted(events: Sequence[Sent]) -> dict[str, dict[str, int]]:
    """The four counts of each user, plainly."""
    out: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS.values(), 0))
    for event in events:
        if event.kind in COUNTS:
            out[event.user][COUNTS[event.kind]] += 1
    return dict(out)


def prefill(bootstrap: str, topic: str, events: Sequence[Sent]) -> None:
    """Put the events on the log, each on its user's partition."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 5})
    for event in events:
        producer.produce(topic, event.value, event.user, partition_of(event.user, PARTITIONS))
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the broker did not take all events")


def floor_rate(bootstrap: str, starts: Mapping[str, int], count: int) -> float:
    """Events a second of a bare consume-and-parse loop over the records that were just put on the log."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "floor", "enable.auto.commit": False})
    consumer.list_topics(timeout=10)  # connected
    began, seen = time.perf_counter(), 0
    consumer.assign([TopicPartition(EVENTS.name, p, starts[f"{EVENTS.name}-{p}"]) for p in range(PARTITIONS)])
    while seen < count:
        messages = consumer.consume(1000, 10.0)
        if not messages:
            raise SystemExit(f"the floor saw {seen} of {count} events")
        for message in messages:
            events_pb2.Inbound.FromString(message.value())
        seen += len(messages)
    rate = count / (time.perf_counter() - began)
    consumer.close()
    return rate


class Ours:
    """Ingest and features of one stack."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self._stack = stack
        feature_repo = folder / "feature_repo"
        (folder / "store").mkdir()
        shutil.copytree(ROOT / "feature_repo", feature_repo, ignore=shutil.ignore_patterns("__pycache__", "data"))
        self._plan = plan_of(stack, folder, feature_repo, PARTITIONS, {})
        os.environ.update(environment(stack, self._plan))
        commands.apply(feature_repo)
        self.store = FeatureStore(config=repo_config(feature_repo))
        self.follower = Follower(stack.kafka.bootstrap, PARTITIONS, self._plan.urls)

    def start(self, name: str) -> None:
        """Start a service and wait until it says ready."""
        self._stack.supervisor.start(program(name, self._stack, self._plan))
        self._stack.supervisor.wait_ready(name)

    def stop(self, name: str) -> None:
        """Stop it in order: its snapshots are written."""
        self._stack.supervisor.stop(name)

    def rate(self, before: int) -> float:
        """Start both services on a filled log; events a second until all features are written.

        `before`: records of the log that were applied in earlier rounds.
        """
        self.start("features")
        self._stack.supervisor.start(program("ingest", self._stack, self._plan))
        until, began, first = time.monotonic() + WAIT_S, 0.0, before
        end = sum(self.follower.ends(EVENTS.name).values())
        while (applied := self._applied("ingest", EVENTS.name)) < end:
            if applied <= before:
                began, first = time.perf_counter(), before
            if time.monotonic() > until:
                raise SystemExit(f"ingest applied {applied} of {end} records")
            time.sleep(0.02)
        if not began:
            raise SystemExit("ingest had begun before it was looked at: the round is too short to time")
        while not self._features_are_through():
            if time.monotonic() > until:
                raise SystemExit("features did not come to the end of its logs")
            time.sleep(0.02)
        rate = (end - first) / (time.perf_counter() - began)
        self.stop("ingest")
        self.stop("features")
        return rate

    def _features_are_through(self) -> bool:
        """Its input is closed by now but for ticks, so the ends are asked for each time."""
        for topic in (INTERACTIONS.name, ITEM_INTERACTIONS.name):
            wanted = self.follower.ends(topic)
            found = self.follower.positions("features").get("applied", {})
            if any(found.get(name, 0) < end for name, end in wanted.items()):
                return False
        return True

    def _applied(self, service: str, topic: str) -> int:
        found = self.follower.positions(service).get("applied", {})
        return sum(int(value) for name, value in found.items() if name.rpartition("-")[0] == topic)


def stock_store(folder: Path, redis_url: str) -> FeatureStore:
    """Stock Feast: its own Redis store and one view of four counts with a push source."""
    folder.mkdir(parents=True, exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="stock",
            provider="local",
            registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 3600},
            online_store={"type": "redis", "connection_string": redis_url.removeprefix("redis://")},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    entity = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    batch = FileSource(name="counts_file", path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    schema = [Field(name="user_id", dtype=String), *(Field(name=name, dtype=Int64) for name in COUNTS.values())]
    source = PushSource(name="counts_push", batch_source=batch)
    store.apply([entity, source, FeatureView(name="user_counts", entities=[entity], schema=schema, source=source)])
    return store


class Agent:
    """The stock way: per event, a dict of counts and a push."""

    def __init__(self, store: FeatureStore, expected: int, out: Path) -> None:
        self._store, self._expected, self._out = store, expected, out
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS.values(), 0))
        self._seen, self._began = 0, 0.0

    async def run(self, stream: Any) -> None:
        """Until all expected events are written; then the time goes to `out` and the process ends."""
        async for value in stream:
            if not self._seen:
                self._began = time.perf_counter()
            event = events_pb2.Inbound.FromString(value).event
            counts = self._counts[event.user_id]
            if event.kind in COUNTS:
                counts[COUNTS[event.kind]] += 1
            row = {"user_id": event.user_id, **counts, "event_timestamp": datetime.now(UTC)}
            self._store.push("counts_push", pd.DataFrame([row]), to=PushMode.ONLINE)
            self._seen += 1
            if self._seen == self._expected:
                part = self._out.with_suffix(".part")
                part.write_text(json.dumps({"seconds": time.perf_counter() - self._began, "events": self._seen}))
                part.rename(self._out)
                os._exit(0)  # a Faust worker takes seconds to stop


def stock_process(words: Sequence[str]) -> None:
    """The worker: bootstrap, redis, topic, folder, expected events, out, web port."""
    bootstrap, redis_url, topic, folder, expected, out, port = words
    app = faust.App(
        topic,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=str(Path(folder) / "faust"),
        web_enabled=False,
        web_host="127.0.0.1",
        web_port=int(port),
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    agent = Agent(stock_store(Path(folder), redis_url), int(expected), Path(out))
    app.agent(app.topic(topic, value_type=bytes, value_serializer="raw"), name="counts")(agent.run)
    faust.Worker(app, loglevel="warning").execute_from_commandline()


def stock_rate(folder: Path, stack: Stack, topic: str, expected: int) -> float:
    """Events a second of the stock agent over a filled topic."""
    out = folder / f"{topic}.json"
    port = stack.take_port()
    words = [stack.kafka.bootstrap, stack.redis.url, topic, str(folder), str(expected), str(out), str(port)]
    command = [sys.executable, "-m", "benchmarks.streams", "--stock", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if not out.exists():
        raise SystemExit(f"the stock agent wrote nothing: {ended.stderr[-2000:]}")
    found = json.loads(out.read_text())
    return float(found["events"] / found["seconds"])


def differing(plain: Mapping[str, Mapping[str, int]], stock: FeatureStore, ours: FeatureStore) -> tuple[int, int]:
    """(values compared, values that differ) among a plain count, the stock store and ours."""
    users, compared, different = sorted(plain), 0, 0
    rows = {"user_id": users}
    from_stock = stock.get_online_features([f"user_counts:{name}" for name in COUNTS.values()], rows).to_dict()
    from_ours = ours.get_online_features([f"user_stats:{name}" for name in COUNTS.values()], rows).to_dict()
    for name in COUNTS.values():
        for place, user in enumerate(users):
            compared += 1
            different += not plain[user][name] == from_stock[name][place] == from_ours[name][place]
    return compared, different


def run(folder: Path, rounds: int, count: int, stock_count: int) -> dict[str, Any]:
    """All ways in turn, then the comparison."""
    tools = fetch(default_folder(os.environ), Progress(show_present=False))
    rates: dict[str, list[float]] = {"floor": [], "stock": [], "ours": []}
    plain: dict[str, dict[str, int]] = {}
    with Stack(folder, PARTITIONS, tools=tools) as stack:
        bootstrap = stack.kafka.bootstrap
        topics = [f"{STOCK_TOPIC}.{turn}" for turn in range(rounds)]
        create_topics(bootstrap, [TopicSpec.of(topic, PARTITIONS) for topic in TOPICS])
        create_topics(bootstrap, [TopicSpec(topic, PARTITIONS) for topic in topics])
        ours, stock = Ours(folder, stack), stock_store(folder / "stock", stack.redis.url)
        for turn, topic in enumerate(topics):
            events = make(turn, count, time.time_ns() // 1000)
            few = first_users(events, stock_count)
            plain |= counted(few)
            starts = ours.follower.ends(EVENTS.name)
            prefill(bootstrap, EVENTS.name, events)
            prefill(bootstrap, topic, few)
            rates["floor"].append(floor_rate(bootstrap, starts, count))
            rates["stock"].append(stock_rate(folder / "stock", stack, topic, len(few)))
            rates["ours"].append(ours.rate(sum(starts.values())))
            print({name: round(values[-1]) for name, values in rates.items()}, file=sys.stderr, flush=True)
        compared, different = differing(plain, stock, ours.store)
        ours.follower.close()
    found = {name: spread(values) for name, values in rates.items()}
    return {
        "rounds": rounds,
        "events": {"ours": count, "stock": stock_count, "floor": count},
        "partitions": PARTITIONS,
        "parity": {"values": compared, "different": different},
        "events_per_second": found,
        "times_faster_than_stock": _ratio(rates["ours"], rates["stock"]),
        "share_of_floor": _ratio(rates["ours"], rates["floor"]),
    }


def _ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Of the rates of each round, so that a busy minute hits both."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def main() -> int:
    """Exit status 1 when a count differs."""
    if sys.argv[1:2] == ["--stock"]:
        words, sys.argv = sys.argv[2:], [sys.argv[0], "worker"]
        stock_process(words)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one small round: does it run?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--stock-events", type=int, default=2_000)
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.events, asked.stock_events = min(2, asked.rounds), 20_000, 400
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), asked.rounds, asked.events, asked.stock_events)
    write_json(asked.out, result)
    print(json.dumps(result, indent=1))
    return 1 if result["parity"]["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
