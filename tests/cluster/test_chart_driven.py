"""The loop runs from what the chart renders, and keeps its promises: chart and code cannot disagree."""

from collections.abc import Iterator

import pytest
from freshrank.v1 import ranking_pb2

from services.cli.kafka import admin
from services.common.topics import TOPICS
from services.demo.tools import Tools
from tests.cluster.chart_loop import ChartLoop, probed
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture(scope="module")
def loop(cluster: Cluster, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChartLoop]:
    """Everything, started once for the tests of this file, which go through one life in their order."""
    with cluster.namespace() as namespace:
        made = ChartLoop(tmp_path_factory.mktemp("chart"), tools, cluster=cluster, namespace=namespace)
        made.start()
        yield made
        made.stop()


def test_the_jobs_have_made_topics_and_definitions(loop: ChartLoop) -> None:
    found = admin(loop.bootstrap).list_topics(timeout=10).topics
    partitions = {topic.name: len(found[topic.name].partitions) for topic in TOPICS}
    assert partitions == {topic.name: 1 if topic.single else loop.partitions for topic in TOPICS}
    assert loop.apply_features() == []


@pytest.mark.parametrize("kind", PROBES)
def test_every_probe_of_the_chart_is_answered(loop: ChartLoop, kind: str) -> None:
    silent = [name for name, pod in loop.plan.pods.items() if not probed(pod, pod.main[kind])]
    assert silent == []


def test_nothing_is_kept_outside_the_mounted_folders(loop: ChartLoop) -> None:
    kept = {path.name for path in loop.folder.iterdir() if path.is_dir()}
    assert kept == {"claims", "pods", "kafka", "redis", "logs", "image"}


async def test_a_release_is_served_to_shoppers(loop: ChartLoop) -> None:
    release = await loop.serving()
    async with loop.traffic() as api:
        asked = await api.recommend(ranking_pb2.Shopper(user_id="ada"), 8)
    assert asked is not None
    assert asked[0].release == release
    assert len(asked[0].results) == 8
    assert loop.record.failed == {}


async def test_the_ledger_holds(loop: ChartLoop) -> None:
    assert await loop.ledger() == {}
    assert len(loop.impressions()) > 20


def test_all_that_was_started_still_runs(loop: ChartLoop) -> None:
    assert [exit.name for exit in loop.stack.supervisor.exits()] == []


async def test_the_manifest_of_the_release_names_the_backend_of_the_values(loop: ChartLoop) -> None:
    config = (loop.plan.store / "triton" / loop.champion() / "config.pbtxt").read_text()
    assert 'backend: "python"' in config
