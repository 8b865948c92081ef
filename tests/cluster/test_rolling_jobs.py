"""Jobs that upgrades bring are run as pods would: partitions are added, an archive is looked at, a history comes in."""

import asyncio
import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.cli.kafka import admin
from services.common.topics import TOPICS
from services.demo.tools import Tools
from tests.cluster.cluster import Cluster
from tests.cluster.rolling import RollingLoop
from tests.pipeline.loop import CALM, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]

AFTER = 4
STREAMS = ("ingest", "features", "joiner")
SHORT = {"services": {name: {"settings": {"session_s": 10}} for name in STREAMS}}
"""A stream's name in its group outlives its pod by so much, and until then nothing may be moved."""
ITEMS = 30


@pytest.fixture
def loop(cluster: Cluster, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RollingLoop]:
    with cluster.namespace() as pods, cluster.namespace() as release:
        folder = tmp_path_factory.mktemp("jobs")
        made = RollingLoop(folder, tools, values=SHORT, cluster=cluster, namespace=pods, release_namespace=release)
        made.start()
        yield made
        made.stop()


async def test_partitions_are_added_and_a_history_comes_in_by_upgrades(loop: RollingLoop) -> None:
    async with loop.calling() as api:
        await api.stock(loop.world.first_items)
    async with loop.traffic(CALM):
        pass
    await resharded(loop)
    async with loop.traffic(CALM):
        pass
    assert await loop.ledger(300) == {}
    await maintained(loop)
    await imported(loop)


async def resharded(loop: RollingLoop) -> None:
    """As docs/operations.md has it: ingest first, then the upgrade, whose job waits until the streams have left."""
    loop.stack.supervisor.stop("ingest")
    await eventually(lambda: asyncio.to_thread(drained, loop), 300)
    ran = len(loop.ran)
    loop.before["reshard"] = lambda: loop.stack.supervisor.stop("features", "joiner")
    ended = await asyncio.to_thread(loop.upgrade, {"jobs": {"reshard": {"enabled": True, "partitions": AFTER}}})
    assert ended.returncode == 0, f"{ended.stderr}{loop.ran[ran:]}"
    *tries, last = [one for one in loop.ran[ran:] if one.component == "reshard"]
    assert last.status == 0, last.said
    assert [one.said for one in tries if "streams still run" not in one.said] == []
    loop.partitions = AFTER
    ended = await asyncio.to_thread(loop.upgrade, {})
    assert ended.returncode == 0, ended.stderr
    await asyncio.to_thread(loop.renew)
    found = admin(loop.bootstrap).list_topics(timeout=10).topics
    wanted = {topic.name: 1 if topic.single else 2 if topic.fixed else AFTER for topic in TOPICS}
    assert {name: len(found[name].partitions) for name in wanted} == wanted


def drained(loop: RollingLoop) -> bool:
    """Whether features and joiner have read all that ingest has left."""
    lags = loop.follower.lags()
    return not any(behind for name, behind in lags.items() if name.split()[0] in ("features", "joiner"))


async def maintained(loop: RollingLoop) -> None:
    """The schedule's job ends well where nobody has asked for anything."""
    ended = await asyncio.to_thread(loop.upgrade, {"maintenance": {"enabled": True}})
    assert ended.returncode == 0, ended.stderr
    await asyncio.to_thread(loop.run_now, "freshrank-maintenance")
    await eventually(lambda: loop.ran[-1].component == "maintenance", 300)
    assert loop.ran[-1].status == 0, loop.ran[-1].said


async def imported(loop: RollingLoop) -> None:
    files = loop.folder / "claims" / "history"
    files.mkdir()
    items = [
        {"item": f"old-{n}", "title": f"thing {n}", "categories": ["hats"], "price": 5.0 + n} for n in range(ITEMS)
    ]
    now_s = int(time.time())
    clicks = [{"user": f"u-{n}", "item": f"old-{n}", "kind": "click", "time": now_s - 60 + n} for n in range(ITEMS)]
    for name, rows in (("catalogue", items), ("interactions", clicks)):
        pq.write_table(pa.Table.from_pylist(rows), files / f"{name}.parquet")
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "history"}, "spec": spec}
    loop.given([claim])
    ended = await asyncio.to_thread(loop.upgrade, {"jobs": {"import": {"enabled": True, "existingClaim": "history"}}})
    (run,) = [one for one in loop.ran if one.component == "import"]
    assert (ended.returncode, run.status) == (0, 0), f"{ended.stderr}{run.said}"
    assert f"{ITEMS}" in run.said
