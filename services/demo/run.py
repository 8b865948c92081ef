"""A demo from start to verdict: parts, services, catalogue, traffic, story, ledger, report."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from services.common.kafka import Outbox
from services.common.topics import TOPICS
from services.demo import arms as many
from services.demo import encoder, loaders, show, summary, turns
from services.demo.api import Api
from services.demo.arms import ArmPlan, Trial
from services.demo.cache import Progress, default_folder
from services.demo.follow import Follower
from services.demo.kafka import TopicSpec, create_topics
from services.demo.record import Record
from services.demo.replay import Replay, Speed
from services.demo.report import write_report
from services.demo.runfile import write_runfile
from services.demo.services import SERVICES, Plan, environment, plan_of, program
from services.demo.stack import Stack
from services.demo.story import Story, tell_story
from services.demo.studies import Study, early
from services.demo.tools import fetch
from services.demo.traffic import Pace, Traffic
from services.demo.turns import Turn
from services.demo.world import World
from services.features import commands
from services.publisher.audit import Audit

_SIMULATED = {
    "FRESHRANK_PUBLISHER_RIPE_S": "15",
    "FRESHRANK_PUBLISHER_LEAST_IMPRESSIONS": "100",
    "FRESHRANK_PUBLISHER_REPLAY_IMPRESSIONS": "400",
    "FRESHRANK_PUBLISHER_STABILITY": "2",
    "FRESHRANK_TRAINER_UPDATE_INTERVAL": "15",
}
"""A demo lasts minutes and begins with nothing: judge by younger labels and the newest impressions only, and let
scores move, as those of a model in its first minutes must."""

_REPLAY = {
    "FRESHRANK_GATEWAY_CLOCK": "request",
    "FRESHRANK_GATEWAY_EXPLORE": "0",
    "FRESHRANK_GATEWAY_GATHER_MS": "0",
    "FRESHRANK_INGEST_TICKS": "log",
}
"""A replay brings its own time; releases come by the clock on the wall, or a fast one would make nothing else."""

_LOCKSTEP = {
    "FRESHRANK_FEATURES_STEP_MS": "0",
    "FRESHRANK_FEATURES_ITEM_STEP_MS": "0",
    "FRESHRANK_INGEST_FETCH_WAIT_MS": "0",
    "FRESHRANK_FEATURES_FETCH_WAIT_MS": "0",
    "FRESHRANK_JOINER_FETCH_WAIT_MS": "0",
    "FRESHRANK_PUBLISHER_ROWS_EVERY_S": "0.01",
    "FRESHRANK_TRAINER_CLOCK": "log",
    "FRESHRANK_TRAINER_GATHER_MS": "15",
    "FRESHRANK_TRAINER_PUSH_INTERVAL": "0",
    "FRESHRANK_TRAINER_UPDATE_INTERVAL": "86400",
    "FRESHRANK_TRAINER_UPDATE_EXAMPLES": "200",
}
"""Nothing waits for a timer; a release every 200 impressions."""


@dataclass
class Options:
    """What to run."""

    folder: Path
    report: Path
    feature_repo: Path = Path("feature_repo")
    partitions: int = 2
    domain: str = "shop"
    seed: int = 7
    pace: Pace = field(default_factory=Pace)
    data: Path | None = None
    speed: Speed = field(default_factory=Speed)
    limit: int = 0
    keep: bool = False
    strategies: tuple[str, ...] = ()
    """Learned by in turn, when the first release serves."""
    arms: tuple[ArmPlan, ...] = ()
    """Compared with the first arm by a trial, two at most."""
    settings: Mapping[str, str] = field(default_factory=dict)


class Demo:
    """Everything that runs, and what was seen of it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.console = show.console()
        self.record = Record()
        self.moments: list[show.Moment] = []
        self.began = time.monotonic()
        self.steps: dict[str, float] = {}
        self.study: Study | None = None
        self.turns: list[Turn] = []
        self.searches = 0
        self.trial: Trial | None = None

    @contextmanager
    def step(self, name: str) -> Any:
        """Say how long a step took."""
        began = time.monotonic()
        if self.console.is_terminal:
            self.console.print(f"  {name} ...", end="\r")
        yield
        self.steps[name] = time.monotonic() - began
        self.console.print(f"  {name}: {self.steps[name]:.1f} s      ")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Parts and services up, features applied; all gone at the end, whatever happens."""
        options = self.options
        tools = fetch(default_folder(os.environ), Progress(show_present=False))
        store = options.folder / "store"
        stack = Stack(options.folder, options.partitions, tools=tools, model_repository=store / "triton")
        with self.step("Kafka, Redis and Triton"):
            stack.start()
        try:
            self.stack = stack
            settings = {
                **(_REPLAY if options.data else _SIMULATED),
                **(_LOCKSTEP if options.data and options.speed.lockstep else {}),
                **(loaders.settings(options.data) if options.data else {}),
                **(many.SETTINGS if options.arms else {}),
                **options.settings,
            }
            self.plan: Plan = plan_of(stack, options.folder, options.feature_repo, options.partitions, settings)
            with self.step("topics and features"):
                create_topics(stack.kafka.bootstrap, [TopicSpec.of(topic, options.partitions) for topic in TOPICS])
                os.environ.update(environment(stack, self.plan))
                commands.apply(options.feature_repo)
            with self.step("services"):
                for name in SERVICES:
                    stack.supervisor.start(program(name, stack, self.plan))
                for name in SERVICES:
                    await asyncio.to_thread(stack.supervisor.wait_ready, name)
            if not options.data:  # a log's items have no words
                with self.step("text encoder"):
                    folder = encoder.provide(default_folder(os.environ), Progress(show_present=False))
                    encoder.offer(folder, store, time.time_ns() // 1000)
            if options.arms:
                with self.step("arms"):
                    self.trial = Trial(stack, self.plan, options.arms)
                    await asyncio.to_thread(self.trial.start)
            admin = f"127.0.0.1:{self.plan.admin_port}"
            write_runfile(options.folder, environment(stack, self.plan), self.plan.gateway, admin, self.plan.urls)
            self.follower = Follower(stack.kafka.bootstrap, options.partitions, self.plan.urls)
            self.api = Api(self.plan.gateway, self.record)
            yield
            await self.api.close()
            self.follower.close()
        finally:
            with self.step("stopping"):
                names = (*SERVICES, *(self.trial.names if self.trial else ()))
                stack.supervisor.stop(*(name for name in names if name in stack.supervisor.names()))
                stack.stop()

    async def watch(self) -> None:
        """The live line, once a second, and its figures for the report."""
        before, at = (0, 0), time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            lag, memory = await asyncio.to_thread(self._outside)
            moment = show.moment(self.record, before, now - self.began, now - at, lag, memory)
            before, at = (self.record.events, len(self.record.answers)), now
            self.moments.append(moment)
            if self.console.is_terminal:
                self.console.print(show.line(moment), end="\r")
            elif len(self.moments) % 10 == 1:
                self.console.print(show.line(moment), soft_wrap=True)

    def _outside(self) -> tuple[int, float]:
        with suppress(Exception):
            usage = self.stack.supervisor.usage()
            return sum(self.follower.lags().values()), sum(u.pss_bytes for u in usage.values()) / 2**20
        return 0, float("nan")

    def ledger(self) -> dict[str, Any]:
        """Ask the oracle, in a process of its own."""
        folder = self.options.report
        self.record.write(folder)
        values = environment(self.stack, self.plan)
        from services.online.registry import with_defaults

        names = with_defaults(values)
        out = folder / "ledger.json"
        command = [
            sys.executable,
            *("-m", "services.demo.oracle"),
            *("--bootstrap", self.stack.kafka.bootstrap, "--redis", names["FRESHRANK_REDIS"]),
            *("--registry", names["FRESHRANK_REGISTRY"], "--acks", str(folder / "acks.parquet"), "--out", str(out)),
        ]
        if heads := values.get("FRESHRANK_JOINER_HEADS"):
            command += ["--heads", heads]
        subprocess.run(command, check=False)
        if not out.exists():
            return {"held": False, "checks": [{"name": "the oracle ran", "held": False, "detail": "it did not end"}]}
        answer: dict[str, Any] = json.loads(out.read_text())
        return answer

    def audit(self) -> list[dict[str, Any]]:
        """Decisions of the publisher."""
        return Audit(self.plan.store / "releases" / "audit.jsonl").entries()


async def run(options: Options) -> int:
    """Run it; returns the exit code: 0 only if the ledger holds."""
    demo = Demo(options)
    demo.console.print("[bold]Freshrank[/bold] on this machine")
    async with demo.running():
        watching = asyncio.create_task(demo.watch())
        story = await (_replay(demo) if options.data else _simulate(demo))
        with demo.step("every stage catching up"):
            await demo.follower.drained()
        watching.cancel()
        with demo.step("ledger"):
            ledger = await asyncio.to_thread(demo.ledger)
        facts = summary.facts(demo, story) | (summary.ranked(demo) if options.data else {})
        _print(demo, facts, story)
        title = f"Freshrank: {options.data.name if options.data else options.domain}"
        page = write_report(options.report, title, facts, demo.record, demo.moments, demo.audit(), ledger, demo.study)
        demo.console.print(f"Report: {page.absolute()}")
        if options.keep:
            await _keep(demo)
    return 0 if ledger["held"] and all(turn.served for turn in demo.turns) else 1


async def _simulate(demo: Demo) -> Story:
    options = demo.options
    longer = turns.SECONDS * len(options.strategies) + (many.SECONDS if options.arms else 0.0)
    pace = replace(options.pace, seconds=options.pace.seconds + longer)
    shoppers = max(600, int(10 * options.pace.events_per_second))
    world = World(options.domain, options.seed, shoppers=shoppers)
    with demo.step("catalogue"):
        await demo.api.stock(world.first_items)
        await demo.follower.caught_up()
    gc.collect()
    gc.freeze()  # a pause of the driver would be told as the gateway's
    driven = Traffic(world, demo.api, pace, options.seed)
    traffic = asyncio.create_task(driven.run())
    until = time.monotonic() + 0.6 * options.pace.seconds
    while time.monotonic() < until and not (demo.record.answers and demo.record.answers[-1].release):
        await asyncio.sleep(0.5)
    story = await tell_story(demo.api, world)
    if demo.trial:
        await demo.trial.run()
        driven.end()
    if options.strategies:
        taking = turns.Turns(demo.stack, demo.plan, demo.audit)
        await taking.run(options.strategies)
        demo.turns = taking.turns
        driven.end()
    await traffic
    demo.searches = driven.searches
    return story


async def _replay(demo: Demo) -> Story:
    options = demo.options
    assert options.data is not None
    outbox = Outbox(demo.stack.kafka.bootstrap, ordered=False)
    ahead = early(loaders.steps(options.data, options.limit)) if options.speed.lockstep else []
    replay = Replay(demo.api, demo.follower, outbox, options.partitions, options.speed, ahead)
    await replay.run(loaders.steps(options.data, options.limit), lambda _: None)
    outbox.close()
    demo.study = replay.study
    return Story()


def _print(demo: Demo, facts: dict[str, str], story: Story) -> None:
    if story.rankings:
        demo.console.print(show.ranking_table(f"One shopper, who clicked on: {story.clicked}", story.rankings))
    if story.searches:
        demo.console.print(show.ranking_table(f"The same shopper's search: {story.query}", story.searches))
    demo.console.print(show.release_table(demo.record.answers))
    if demo.study and demo.study.lags():
        demo.console.print(show.cost_table("Everything so many seconds later", demo.study.lags()))
        demo.console.print(show.cost_table("Without one input", demo.study.features()[:10]))
    if demo.turns:
        demo.console.print(show.turns_table(demo.turns))
    if demo.trial and demo.trial.found:
        demo.console.print(show.trial_table(demo.trial.found))
    demo.console.print(show.facts_table("In all", facts))


async def _keep(demo: Demo) -> None:
    python = os.path.relpath(sys.executable)
    freshrank, gateway = os.path.join(os.path.dirname(python), "freshrank"), demo.plan.gateway
    demo.console.print(
        f"Running on. Ranking API at {gateway}, admin API at 127.0.0.1:{demo.plan.admin_port}.\n"
        f'  grpcurl -plaintext -d \'{{"shopper": {{"user_id": "me"}}}}\' {gateway} freshrank.v1.Ranking/Recommend\n'
        f'  {python} -c \'from freshrank import Client; print(Client("{gateway}").recommend("me"))\'\n'
        f"  {freshrank} status --folder {demo.options.folder}\n"
        "Ctrl-C ends it.",
        soft_wrap=True,
    )
    await asyncio.Event().wait()
