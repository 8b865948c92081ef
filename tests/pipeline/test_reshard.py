"""Partitions are added to a shop at work: nothing is lost or counted twice, and features are those of the whole log.

The command is killed at many places before it may end.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.ids import partition_of
from services.common.kafka import Probe
from services.common.topics import EVENTS, EXAMPLES, INTERACTIONS, ITEM_INTERACTIONS, ITEM_UPDATES
from services.demo.follow import Follower
from services.demo.oracle.log import rows
from services.demo.runfile import write_runfile
from services.demo.services import SERVICES
from services.demo.tools import Tools
from services.demo.traffic import Pace, Traffic
from tests.pipeline.loop import CALM, ROOT, Loop, eventually

pytestmark = pytest.mark.pipeline

BEFORE, AFTER = 2, 3
STREAMS = ("ingest", "features", "joiner")
LOGS = (EVENTS.name, INTERACTIONS.name, ITEM_INTERACTIONS.name, EXAMPLES.name)

KILLED = """
import os, signal, sys
from pathlib import Path
from services.cli.resharding import Reshard
from services.cli.settings import load

def say(done, remark):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Reshard(load(Path(sys.argv[1])), int(sys.argv[3]), 60_000_000).run(False, say)
"""


@pytest.fixture
def loop(tools: Tools, tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "run", tools, {"FRESHRANK_FEATURES_SNAPSHOT_S": "3600"}, partitions=BEFORE)
    made.start()
    try:
        write_run(made)
        yield made
    finally:
        made.stop()


def write_run(loop: Loop) -> None:
    """What the command finds the parts by."""
    admin = f"127.0.0.1:{loop.plan.admin_port}"
    write_runfile(loop.folder, loop.variables(), loop.plan.gateway, admin, loop.plan.urls)


def reshard(loop: Loop, *options: str) -> tuple[int, Any, str]:
    """The command as people run it: exit code, JSON, and what it says."""
    command = [sys.executable, "-m", "services.cli", "reshard", "--folder", str(loop.folder), "--json", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    print(ended.stderr)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else None, ended.stderr


def killed_at(loop: Loop, step: int) -> None:
    """Run it until so many steps are done, and kill it."""
    command = [sys.executable, "-c", KILLED, str(loop.folder), str(step), str(AFTER)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == -9, ended.stderr


def partitions(loop: Loop) -> dict[str, int]:
    """Of each topic."""
    probe = Probe(loop.bootstrap)
    try:
        return {topic: len(probe.partitions(topic)) for topic in (*LOGS, ITEM_UPDATES.name)}
    finally:
        probe.close()


async def drained(loop: Loop, *services: str) -> None:
    """They have read what the ones before them left."""

    def read() -> bool:
        lags = loop.follower.lags()
        return not any(lags[name] for name in lags if name.split()[0] in services)

    await eventually(lambda: asyncio.to_thread(read), 60)


async def test_more_partitions_lose_nothing_and_count_nothing_twice(loop: Loop) -> None:
    async with loop.calling() as api:
        await api.stock(loop.world.first_items)
        async with loop.traffic(CALM):
            pass
        code, _, told = reshard(loop, "--partitions", str(AFTER))
        assert (code, "streams still run" in told) == (1, True)

        # What a killed stream has not saved is missed, by name.
        loop.stack.supervisor.stop("ingest")
        await drained(loop, "features", "joiner")
        loop.kill("features")
        loop.stack.supervisor.stop("joiner")
        await eventually(lambda: "not ready" in reshard(loop, "--partitions", str(AFTER))[2], 30, 1)
        code, _, told = reshard(loop, "--partitions", str(AFTER))
        assert (code, "features, interactions-0:" in told) == (1, True)
        assert not (loop.plan.store / "reshard.json").exists()
        loop.restart("features")
        await drained(loop, "features")
        loop.stack.supervisor.stop("features")

        # The shop goes on meanwhile: its events wait on the partitions of before.
        await Traffic(loop.world, api, Pace(seconds=4, events_per_second=100, sessions_per_second=5)).run()

        code, _, told = reshard(loop, "--partitions", str(BEFORE))
        assert (code, "--partitions: must be more than the 2" in told) == (2, True)
        code, shown, told = reshard(loop, "--partitions", str(AFTER), "--dry-run")
        assert code == 0, told
        assert [len(one["after"]) for one in shown["state"]] == [AFTER] * 4
        assert partitions(loop) == dict.fromkeys((*LOGS, ITEM_UPDATES.name), BEFORE)

        staged = 4 * AFTER
        for step in (1, staged - 1, staged, staged + 1, staged + 2):
            killed_at(loop, step)
            assert (loop.plan.store / "reshard.json").exists()
        loop.stack.supervisor.start(loop.program("joiner"))
        await eventually(lambda: not loop.stack.supervisor.running("joiner"), 30)
        assert "a reshard has begun and not ended" in loop.log("joiner")
        code, done, told = reshard(loop, "--partitions", str(AFTER))
        assert code == 0, told
        assert (done["before"], done["after"], done["resumed"]) == (BEFORE, AFTER, True)
        assert partitions(loop) == {**dict.fromkeys(LOGS, AFTER), ITEM_UPDATES.name: BEFORE}

    loop.stack.supervisor.stop(*SERVICES)
    loop.plan = replace(loop.plan, partitions=AFTER)
    loop.follower.close()
    loop.follower = Follower(loop.stack.kafka.broker, AFTER, loop.plan.urls)
    for name in SERVICES:
        loop.stack.supervisor.start(loop.program(name))
    for name in SERVICES:
        loop.stack.supervisor.wait_ready(name)
    async with loop.traffic(CALM):
        pass
    assert await loop.ledger() == {}

    log = list(rows(loop.bootstrap, INTERACTIONS.name))
    movers = {r["user"] for r in log if r["user"] and partition_of(r["user"], BEFORE) != r["p"]}
    assert {r["p"] for r in log if r["user"] in movers} == set(range(AFTER))
    examples = list(rows(loop.bootstrap, EXAMPLES.name))
    assert {r["p"] for r in examples if r["kind"] == 1} == set(range(AFTER))
    assert not [letter for letter in loop.dead_letters() if letter.stage == "joiner"]
