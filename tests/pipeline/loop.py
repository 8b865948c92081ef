"""The whole loop on this machine, for stories: Kafka, Redis, Triton and the six services as real processes.

loop.start()
async with loop.calling() as api: await Traffic(loop.world, api, Pace(seconds=10)).run()
loop.kill("joiner"), loop.restart("joiner")
loop.ledger()       # what the oracle says, promise by promise
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from confluent_kafka import Consumer, TopicPartition
from freshrank.v1 import events_pb2, ranking_pb2

from services.common.topics import DEAD_LETTERS, EVENTS, TOPICS
from services.demo.api import Api
from services.demo.follow import Follower
from services.demo.kafka import TopicSpec, create_topics
from services.demo.oracle.log import read, unwrap
from services.demo.processes import Program
from services.demo.record import Record
from services.demo.secure import Secure
from services.demo.services import SERVICES, Plan, environment, plan_of, program
from services.demo.stack import PARTS, Stack
from services.demo.tools import Tools
from services.demo.traffic import Pace, Traffic
from services.demo.world import World
from services.features import commands
from services.online.registry import with_defaults
from services.publisher.audit import Audit

ROOT = Path(__file__).parents[2]
QUICK = {
    "FRESHRANK_PUBLISHER_RIPE_S": "10",
    "FRESHRANK_PUBLISHER_LEAST_IMPRESSIONS": "60",
    "FRESHRANK_PUBLISHER_RELEVANCE_QUERIES": "5",
    "FRESHRANK_TRAINER_UPDATE_INTERVAL": "8",
    "FRESHRANK_GATEWAY_PLAN_SECONDS": "2",
}
"""A release after seconds of traffic instead of minutes."""

CALM = Pace(seconds=10, events_per_second=120, sessions_per_second=5)

Found = TypeVar("Found")


class PatientApi(Api):
    """Goes on when the gateway is away: a shop tries its catalogue again later."""

    async def stock(self, items: list[ranking_pb2.Item]) -> None:
        """Put items into the catalogue; counted when that fails."""
        try:
            await super().stock(items)
        except grpc.aio.AioRpcError as error:
            self.record.failed[f"UpsertItems {error.code().name}"] += 1


@dataclass
class Loop:
    """One run of everything; `folder` is new and its own."""

    folder: Path
    tools: Tools
    settings: Mapping[str, str] = field(default_factory=dict)
    partitions: int = 2
    seed: int = 7
    items: int = 400
    services: Sequence[str] = SERVICES
    """The ones to start."""
    secure: Secure | None = None
    """Kafka and Triton ask for certificates."""
    programs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other arguments of Python than `-m services.<name>`, by service."""

    def start(self) -> None:
        """Start parts and services and apply the features; whatever fails stops it all."""
        self.world, self.record = World("shop", self.seed, items=self.items), Record()
        self.feature_repo = self.folder / "feature_repo"
        shutil.copytree(ROOT / "feature_repo", self.feature_repo, ignore=shutil.ignore_patterns("__pycache__", "data"))
        repository = self.folder / "store" / "triton"
        self.stack = Stack(
            self.folder, self.partitions, tools=self.tools, model_repository=repository, secure=self.secure
        )
        self.stack.start()
        try:
            self._start_services()
        except BaseException:
            self.stack.stop()
            raise

    def _start_services(self) -> None:
        settings = {**QUICK, **self.settings}
        self.plan: Plan = plan_of(self.stack, self.folder, self.feature_repo, self.partitions, settings)
        create_topics(self.stack.kafka.broker, [TopicSpec.of(topic, self.partitions) for topic in TOPICS])
        self.apply_features()
        for name in self.services:
            self.stack.supervisor.start(self.program(name))
        for name in self.services:
            self.stack.supervisor.wait_ready(name)
        self.follower = Follower(self.stack.kafka.broker, self.partitions, self.plan.urls)

    def program(self, name: str) -> Program:
        """How a service is run here."""
        made = program(name, self.stack, self.plan)
        arguments = self.programs.get(name)
        given = {**vars(made), "argv": (sys.executable, *arguments) if arguments else made.argv, "cwd": ROOT}
        return Program(**given)

    def stop(self) -> None:
        """Stop everything."""
        self.follower.close()
        self.stack.stop()

    def variables(self) -> dict[str, str]:
        """What all services are given."""
        return environment(self.stack, self.plan)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """The services' variables in this process, for what reads them there."""
        before = dict(os.environ)
        os.environ.update(self.variables())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def apply_features(self) -> list[str]:
        """`freshrank features apply` of this run's own repository; the paths that changed."""
        with self.environment():
            return [change.path for change in commands.apply(self.feature_repo)]

    def kill(self, name: str) -> None:
        """SIGKILL a service or a part."""
        self.stack.kill(name)

    def restart(self, name: str) -> float:
        """Start it again and wait until it says ready; the seconds that took."""
        return self.stack.restart(name)

    async def revive(self) -> list[str]:
        """Start again what has ended itself on an infrastructure fault, as a cluster does; their names."""
        down = [name for name in (*PARTS, *self.services) if not self.stack.supervisor.running(name)]
        for name in down:
            await asyncio.to_thread(self.restart, name)
        return down

    def log(self, name: str) -> str:
        """What a service has printed."""
        return self.stack.supervisor.log_path(name).read_text(errors="replace")

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[Api]:
        """The gateway's API; everything goes into the record."""
        api = PatientApi(self.plan.gateway, self.record, tls=self.secure.client if self.secure else None)
        try:
            yield api
        finally:
            await api.close()

    @asynccontextmanager
    async def traffic(self, pace: Pace = CALM) -> AsyncIterator[Api]:
        """Traffic beside the block; at its end the traffic ends too, after its own time."""
        async with self.calling() as api:
            running = asyncio.create_task(Traffic(self.world, api, pace).run())
            try:
                yield api
            finally:
                await running

    async def serving(self, timeout_s: float = 90.0) -> str:
        """Open the shop if it is not open, and drive traffic until a release serves; its name."""
        async with self.calling() as api:
            if not self.record.answers:
                await api.stock(self.world.first_items)
                await self.follower.caught_up(rows=False)
        if champion := self.champion():
            return champion
        until = time.monotonic() + timeout_s
        while not self.champion():
            assert time.monotonic() < until, f"no release in time; audit: {self.audit()}"
            async with self.traffic():
                pass
        async with self.calling() as api:
            await eventually(lambda: self._served(api), 20)
        return self.champion()

    async def _served(self, api: Api) -> bool:
        asked = await api.recommend(ranking_pb2.Shopper(user_id="newcomer"))
        return asked is not None and asked[0].release == self.champion()

    def champion(self) -> str:
        """The release that the publisher routes to; empty before the first."""
        return str(self.follower.positions("publisher").get("champion") or "")

    def learned(self, feature_id: int) -> str:
        """The newest candidate or release whose model reads the feature; empty when there is none."""
        manifests = [*self.plan.store.glob("arms/*/exports/*/manifest.json")]
        manifests += (self.plan.store / "releases").glob("*/manifest.json")
        readers = [path.parent.name for path in manifests if feature_id in ids_of(json.loads(path.read_text()))]
        return max(readers, default="")

    def audit(self) -> list[dict[str, Any]]:
        """Decisions of the publisher."""
        return Audit(self.plan.store / "releases" / "audit.jsonl").entries()

    def impressions(self) -> list[events_pb2.Impression]:
        """All impressions on the log, partition by partition."""
        records = (events_pb2.Inbound.FromString(value) for *_, value in read(self.bootstrap, EVENTS.name) if value)
        return [r for one in records for r in unwrap(one) if isinstance(r, events_pb2.Impression)]

    def dead_letters(self) -> list[events_pb2.DeadLetter]:
        """All dead letters."""
        return [events_pb2.DeadLetter.FromString(value) for *_, value in read(self.bootstrap, DEAD_LETTERS.name)]

    @property
    def bootstrap(self) -> str:
        """Kafka."""
        return self.stack.kafka.bootstrap

    async def ledger(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Wait until all stages have caught up and ask the oracle; the broken promises, empty when all hold."""
        await self.follower.caught_up(timeout_s)
        return await asyncio.to_thread(self.ask_oracle)

    def ask_oracle(self) -> dict[str, str]:
        """The oracle's broken promises, as the log and the stores are now."""
        self.record.write(self.folder)
        names = with_defaults(self.variables())
        out = self.folder / "ledger.json"
        out.unlink(missing_ok=True)
        command = [
            sys.executable,
            *("-m", "services.demo.oracle", "--bootstrap", self.bootstrap, "--redis", names["FRESHRANK_REDIS"]),
            *("--registry", names["FRESHRANK_REGISTRY"], "--out", str(out)),
            *("--kafka", json.dumps(self.stack.kafka.broker.config())),
            *("--acks", str(self.folder / "acks.parquet")),
        ]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(ended.stdout)
        if not out.exists():
            return {"the oracle ran": ended.stderr[-2000:]}
        return {c["name"]: c["detail"] for c in json.loads(out.read_text())["checks"] if not c["held"]}


def manifest_of(loop: Loop, release: str) -> dict[str, Any]:
    """What a gated release says of itself."""
    found: dict[str, Any] = json.loads((loop.plan.store / "releases" / release / "manifest.json").read_text())
    return found


def ids_of(manifest: Mapping[str, Any]) -> set[int]:
    """Ids of the numeric features that a release's model reads."""
    return {int(ref["id"]) for part in ("user_features", "item_features") for ref in manifest["spec"][part]}


def keyed(bootstrap: str, topic: str) -> Iterator[tuple[str, bytes]]:
    """Key and value of every record of a topic, tombstones left out."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "story", "enable.auto.commit": False})
    try:
        for partition in sorted(consumer.list_topics(topic, 10).topics[topic].partitions):
            low, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            consumer.assign([TopicPartition(topic, partition, low)])
            while low < end:
                for message in consumer.consume(min(1000, end - low), 1.0):
                    low = message.offset() + 1
                    if message.value():
                        yield message.key().decode(), message.value()
    finally:
        consumer.close()


async def eventually(found: Callable[[], Any], timeout_s: float = 20.0, every_s: float = 0.1) -> Any:
    """The first true answer of `found`, a plain or an async function. AssertionError in time."""
    until = time.monotonic() + timeout_s
    while True:
        answer = found()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < until, "it did not come in time"
        await asyncio.sleep(every_s)
