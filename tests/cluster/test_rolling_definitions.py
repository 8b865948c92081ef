"""Feature definitions change by `helm upgrade` and go back by `helm rollback` while shoppers are served."""

import asyncio
import math
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from freshrank.v1 import events_pb2, ranking_pb2

from services.common.plans import Plan
from services.common.topics import EVENTS
from services.demo.api import Api
from services.demo.oracle.log import read, unwrap
from services.demo.services import SERVICES
from services.demo.tools import Tools
from services.online.registry import load_plan
from tests.cluster.cluster import Cluster
from tests.cluster.rolling import RELEASE, Files, RollingLoop, changed, files_of_the_repository
from tests.pipeline.loop import eventually, ids_of, manifest_of

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ADA = ranking_pb2.Shopper(user_id="ada", session_id="ada-1")
PATIENCE_S = 600.0
"""For what has to come."""
LENIENT = {
    "FRESHRANK_TRAINER_UPDATE_INTERVAL": "25",
    "FRESHRANK_PUBLISHER_AUC_LOSS": "0.3",
    "FRESHRANK_PUBLISHER_LOG_LOSS_RISE": "0.5",
    "FRESHRANK_PUBLISHER_STABILITY": "20",
    "FRESHRANK_PUBLISHER_RIPE_S": "30",
    "FRESHRANK_PUBLISHER_LATENCY_MS": "2000",
    "FRESHRANK_PUBLISHER_ROWS_WAIT_S": "120",
    "FRESHRANK_PUBLISHER_ROWS_AGE_S": "3600",
    "FRESHRANK_PUBLISHER_WATCH_SHARE": "0",
}
"""Releases follow each other here however little they have learned and however slow the machine is, where clicks come
late, too: the gate has stories of its own."""

NAME = "story_views_1d"
ADDED = changed(
    files_of_the_repository(),
    ("views.py", 'count("views_5m"', f'count("{NAME}", ONE_DAY, "kind == \'view\'"),\n        count("views_5m"'),
    ("feature_services.py", '"views_5m",', f'"views_5m", "{NAME}",'),
)
LOSING = changed(
    ADDED,
    ("views.py", '        count("searches_1h", ONE_HOUR, SEARCH),\n', ""),
    ("feature_services.py", ' "searches_1h",', ""),
)


@pytest.fixture
def loop(cluster: Cluster, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RollingLoop]:
    with cluster.namespace() as pods, cluster.namespace() as release:
        folder = tmp_path_factory.mktemp("rolling")
        made = RollingLoop(folder, tools, settings=LENIENT, cluster=cluster, namespace=pods, release_namespace=release)
        with step("helm install, and all processes ready"):
            made.start()
        yield made
        if made.stack.supervisor.running("features"):
            made.stack.kill("features", signal.SIGCONT)  # a failed test may have left it standing
        made.stop()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Says what it took."""
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.1f} s")


async def test_definitions_come_by_an_upgrade_and_go_by_a_rollback(loop: RollingLoop) -> None:
    with step("first release"):
        first = await loop.serving(PATIENCE_S)
    pids = {name: loop.stack.supervisor.pid(name) for name in ("triton", *SERVICES)}
    pods = loop.pods_of_services()
    before = await plan_of(loop)
    async with loop.shopping() as api:
        await views(api, list(loop.world.items)[:3])
        added = await upgraded_and_filled(loop, api)
        with step("a release that reads it serves"):
            second = await routed(loop, reads=added)
        await a_loss_is_stopped(loop)
        with step("helm rollback"):
            ended = await asyncio.to_thread(loop.roll_back, 1)
        assert ended.returncode == 0, ended.stderr
        assert (await plan_of(loop)).version == before.version
        with step("a release without it serves"):
            third = await routed(loop, lacks=added)
    assert len({first, second, third}) == 3
    assert {name: loop.stack.supervisor.pid(name) for name in pids} == pids
    assert loop.pods_of_services() == pods
    assert loop.record.failed == {}
    with step("ledger"):
        assert await loop.ledger(PATIENCE_S) == {}


async def upgraded_and_filled(loop: RollingLoop, api: Api) -> int:
    """Upgrade, while the features service stands still from the moment of applying: nobody can have filled anything
    when gateways ask for the new feature. Its id."""
    ran = len(loop.ran)
    loop.before["apply-features"] = lambda: loop.stack.kill("features", signal.SIGSTOP)
    with step("helm upgrade, back-fill included"):
        upgrade = asyncio.create_task(asyncio.to_thread(loop.upgrade, of_files(ADDED)))
        await eventually(lambda: len(loop.ran) >= ran + 2 or upgrade.done(), PATIENCE_S)
        (added,) = [f.id for f in (await plan_of(loop)).definitions().values() if f.name == NAME]
        with step("gateways ask for it, and it is null"):
            (first, *_) = await eventually(lambda: seen(loop, api, added), PATIENCE_S, 1.0)
        assert math.isnan(first)
        loop.before.clear()
        loop.stack.kill("features", signal.SIGCONT)
        with step("back-filled"):
            counted = await asyncio.to_thread(views_on_log, loop)
            assert counted == 3
            await eventually(lambda: newest_is(loop, api, added, counted), PATIENCE_S, 1.0)
        ended = await upgrade
    assert ended.returncode == 0, ended.stderr
    hook, rest = loop.ran[ran : ran + 2], loop.ran[ran + 2 :]
    assert [(one.component, one.container, one.status) for one in hook] == [
        ("apply-features", "plan", 0),
        ("apply-features", "apply-features", 0),
    ]
    assert all(f"user_stats:{NAME}" in one.said for one in hook)
    assert [one.component for one in rest] == ["create-topics"]  # the first of the revision's own
    return added


def of_files(files: Files) -> dict[str, Any]:
    """The chart's values with this repository."""
    return {"featureRepo": {"files": dict(files)}}


async def a_loss_is_stopped(loop: RollingLoop) -> None:
    before = (await plan_of(loop)).version
    with step("helm upgrade that is refused"):
        ended = await asyncio.to_thread(loop.upgrade, of_files(LOSING))
    assert ended.returncode != 0
    assert f"{RELEASE}-features-before-upgrade" in ended.stderr
    assert loop.ran[-1].container == "plan"
    assert loop.ran[-1].status == 1
    assert "values would be lost: user_stats:searches_1h removed" in loop.ran[-1].said
    assert loop.status() == "failed"
    assert (await plan_of(loop)).version == before


async def plan_of(loop: RollingLoop) -> Plan:
    """What the registry holds."""
    with loop.environment():
        return await asyncio.to_thread(load_plan, loop.feature_repo)


async def views(api: Api, items: list[str]) -> None:
    """What Ada has seen before anybody counted it."""
    events = [
        events_pb2.Event(
            event_id=uuid.uuid4().hex,
            user_id=ADA.user_id,
            session_id=ADA.session_id,
            kind=events_pb2.EVENT_KIND_VIEW,
            item_id=item,
            event_time_us=time.time_ns() // 1000,
        )
        for item in items
    ]
    assert not [result.error_reason for result in await api.track(events) if result.error_reason]


def views_on_log(loop: RollingLoop) -> int:
    """How many of Ada's views the log has."""
    inbound = (events_pb2.Inbound.FromString(value) for *_, value in read(loop.bootstrap, EVENTS.name) if value)
    events = (r for one in inbound for r in unwrap(one) if isinstance(r, events_pb2.Event))
    return sum(e.user_id == ADA.user_id and e.kind == events_pb2.EVENT_KIND_VIEW for e in events)


async def seen(loop: RollingLoop, api: Api, feature_id: int) -> list[float]:
    """The feature's values in Ada's answers so far, one more asked for; NaN is null."""
    await api.recommend(ADA)
    mine = [
        i
        for i in await asyncio.to_thread(loop.impressions)
        if i.user_id == ADA.user_id and feature_id in i.user_feature_ids
    ]
    mine.sort(key=lambda i: i.time_us)
    return [i.user_features[list(i.user_feature_ids).index(feature_id)] for i in mine]


async def newest_is(loop: RollingLoop, api: Api, feature_id: int, value: float) -> bool:
    return (await seen(loop, api, feature_id))[-1] == value


def champion(loop: RollingLoop, reads: int = 0, lacks: int = 0) -> str:
    """The release that is routed to, if its model reads the one feature and not the other."""
    name = loop.champion()
    ids = ids_of(manifest_of(loop, name)) if name else set()
    return name if (not reads or reads in ids) and lacks not in ids else ""


async def routed(loop: RollingLoop, reads: int = 0, lacks: int = 0) -> str:
    """The first such release, when answers come from it or from one after it."""

    async def answering() -> str:
        name = await asyncio.to_thread(champion, loop, reads, lacks)
        answers = loop.record.answers[-50:]
        known = {answer.release for answer in answers if answer.degradation == events_pb2.DEGRADATION_NONE}
        return name if name in known else ""

    found: str = await eventually(answering, PATIENCE_S, 1.0)
    return found
