"""The loop runs from what the chart renders, and keeps its promises: chart and code cannot disagree.

Two gateways, two Tritons, archives with a key per shopper. helm installs, tests and rolls back, and what its jobs,
tests and hooks are to run is run.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from freshrank import ApiError, Client
from freshrank.v1 import ranking_pb2

from services.cli.kafka import admin
from services.common.records import decode
from services.common.topics import TOPICS
from services.demo.api import Api
from services.demo.record import Record
from services.demo.tools import Tools
from services.trainer.archive import ArchiveSource
from tests.cluster.chart_loop import probed
from tests.cluster.cluster import Cluster
from tests.cluster.machine import Pod
from tests.cluster.rolling import DEADLINE_S, RollingLoop
from tests.pipeline.loop import ROOT, eventually

pytestmark = pytest.mark.cluster

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
ADA = ranking_pb2.Shopper(user_id="ada")
SEVERAL = {
    "services": {"gateway": {"replicas": 2}, "features": {"settings": {"archive_s": 2}}},
    "triton": {"replicas": 2},
    "store": {"seal": {"enabled": True}},
}
TESTED = {"test": 1, "test-store": 2}
"""Pods of `helm test`, by component."""


@pytest.fixture(scope="module")
def loop(cluster: Cluster, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RollingLoop]:
    """Everything, started once for the tests of this file, which go through one life in their order."""
    with cluster.namespace() as pods, cluster.namespace() as release:
        folder = tmp_path_factory.mktemp("chart")
        made = RollingLoop(folder, tools, values=SEVERAL, cluster=cluster, namespace=pods, release_namespace=release)
        made.start()
        yield made
        made.stop()


def test_the_jobs_have_made_topics_and_definitions(loop: RollingLoop) -> None:
    assert {(ran.component, ran.status) for ran in loop.ran} == {("create-topics", 0), ("apply-features", 0)}
    found = admin(loop.bootstrap).list_topics(timeout=10).topics
    partitions = {topic.name: len(found[topic.name].partitions) for topic in TOPICS}
    assert partitions == {topic.name: 1 if topic.single else loop.partitions for topic in TOPICS}
    assert loop.apply_features() == []


@pytest.mark.parametrize("kind", PROBES)
def test_every_probe_of_the_chart_is_answered(loop: RollingLoop, kind: str) -> None:
    silent = [name for name, pod in loop.plan.pods.items() if not probed(pod, pod.main[kind])]
    assert silent == []


def test_nothing_is_kept_outside_the_mounted_folders(loop: RollingLoop) -> None:
    kept = {path.name for path in loop.folder.iterdir() if path.is_dir()}
    assert kept == {"claims", "pods", "kafka", "redis", "logs", "image"}


async def test_a_release_is_served_to_shoppers_by_every_gateway(loop: RollingLoop) -> None:
    release = await loop.serving()
    for pod in loop.plan.of("gateway").values():
        await eventually(lambda pod=pod: served_by(loop, pod, release))
    assert loop.record.failed == {}


async def served_by(loop: RollingLoop, pod: Pod, release: str) -> bool:
    """Whether this gateway answers by it, for eight items."""
    api = Api(f"{pod.address}:{loop.plan.grpc_port}", Record())
    try:
        asked = await api.recommend(ADA, 8, preview=True)
        return asked is not None and (asked[0].release, len(asked[0].results)) == (release, 8)
    finally:
        await api.close()


def test_helm_s_own_tests_pass_against_what_runs(loop: RollingLoop) -> None:
    before = len(loop.ran)
    ended = loop.test()
    assert ended.returncode == 0, ended.stderr
    ran = loop.ran[before:]
    assert Counter(one.component for one in ran) == TESTED
    (asked,) = [one.said for one in ran if one.component == "test"]
    assert f" results, release {loop.champion()}\n" in asked


def test_helm_s_test_fails_where_no_gateway_answers(loop: RollingLoop) -> None:
    there = dict(loop.services_at)
    loop.services_at |= {name: "127.0.0.1:1" for name in there if "gateway" in name}
    try:
        ended = loop.test("--filter", "name=freshrank-test")
    finally:
        loop.services_at |= there
    assert ended.returncode != 0
    assert (loop.ran[-1].component, loop.ran[-1].status) == ("test", 1)


async def test_pods_are_replaced_one_by_one_and_no_call_of_the_client_fails(loop: RollingLoop) -> None:
    with Client(loop.plan.gateway, read_s=DEADLINE_S) as client, calling(client) as calls:
        for name in (*loop.plan.of("gateway"), *loop.plan.of("triton")):
            before = len(calls.answered)
            await asyncio.to_thread(loop.replace, name)
            assert len(calls.answered) > before
        await eventually(lambda: calls.answered[-1] == loop.champion())
    assert calls.failed == []


@dataclass
class Calls:
    """What a caller was answered by, and what failed."""

    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, client: Client) -> None:
        """One after the other until stopped."""
        while not self.stopped.wait(0.05):
            try:
                self.answered.append(client.recommend("ada", page_size=8).release)
            except ApiError as error:
                self.failed.append(repr(error))


@contextmanager
def calling(client: Client) -> Iterator[Calls]:
    """One caller until the block ends."""
    calls = Calls()
    thread = threading.Thread(target=calls.run, args=(client,))
    thread.start()
    try:
        yield calls
    finally:
        calls.stopped.set()
        thread.join()


async def test_who_is_forgotten_is_gone_from_sealed_archives(loop: RollingLoop) -> None:
    (gone, _), (stays, _) = Counter(loop.record.acks["user_id"]).most_common(2)
    await eventually(lambda: min(archived(loop, gone), archived(loop, stays)) > (0, 0), 60, 1.0)
    before = archived(loop, stays)
    forget(loop, gone)
    await eventually(lambda: archived(loop, gone) == (0, 0), 60, 1.0)
    assert archived(loop, stays) >= before


def archived(loop: RollingLoop, user: str) -> tuple[int, int]:
    """Feature rows and examples of a shopper that can be read."""
    archive = loop.plan.store / "arms" / "main" / "examples"
    source, examples = ArchiveSource(archive), 0
    while (batch := source.poll()) is not None:
        for partition in batch.ranges:
            columns = [decode(value).column("user") for _, value in batch.numbered(partition)]
            examples += sum(column.to_pylist().count(user) for column in columns)
    return rows(loop, user), examples


def rows(loop: RollingLoop, user: str) -> int:
    """Of the views of shoppers, as the command opens them."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("archive", "open", f"{folder}/opened", "--user", user, "--json")
        found: list[dict[str, Any]] = freshrank(*words, FRESHRANK_STORE=str(loop.plan.store))
    return sum(one["rows"] for one in found if one["view"].startswith("user"))


def forget(loop: RollingLoop, user: str) -> None:
    gateway = loop.plan.pods["gateway"]
    freshrank("forget", user, "--yes", "--json", FRESHRANK_CLI_ADMIN=f"{gateway.address}:{loop.plan.admin_port}")


def freshrank(*words: str, **variables: str) -> Any:
    """The command as operators run it; what it says as JSON."""
    command = [sys.executable, "-m", "services.cli", *words]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def test_the_ledger_holds(loop: RollingLoop) -> None:
    assert await loop.ledger() == {}
    assert len(loop.impressions()) > 20


def test_all_that_was_started_still_runs(loop: RollingLoop) -> None:
    assert [exit.name for exit in loop.stack.supervisor.exits()] == []


async def test_the_manifest_of_the_release_names_the_backend_of_the_values(loop: RollingLoop) -> None:
    config = (loop.plan.store / "triton" / loop.champion() / "config.pbtxt").read_text()
    assert 'backend: "python"' in config
