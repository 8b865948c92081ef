"""A window is changed under the same name while a release that learned the old one serves: both are served, apart."""

import asyncio
import math

import pytest
from freshrank.v1 import events_pb2

from services.demo.services import SERVICES
from services.online.registry import load_plan
from tests.pipeline.loop import Loop, eventually, ids_of, manifest_of

pytestmark = pytest.mark.pipeline

OLD = 'count("impressions_1h", ONE_HOUR, IMPRESSION)'
NEW = 'count("impressions_1h", (timedelta(seconds=20), timedelta(seconds=10)), IMPRESSION)'


async def test_the_old_release_reads_the_old_window_and_the_next_one_the_new(loop: Loop) -> None:
    champion = await loop.serving()
    before = await defined(loop)
    assert before in ids_of(manifest_of(loop, champion))
    pids = {name: loop.stack.supervisor.pid(name) for name in SERVICES}
    views = loop.feature_repo / "views.py"
    views.write_text(views.read_text().replace(OLD, NEW, 1))
    async with loop.traffic():
        assert "user_stats:impressions_1h" in await asyncio.to_thread(loop.apply_features)
        after = await defined(loop)
        assert after != before
        # A shopper who was here longer than the short window: the two differ.
        await eventually(lambda: any(long > short for long, short in pairs(loop, before, after)), 90, 1.0)
    async with loop.traffic():
        release = await eventually(lambda: loop.learned(after), 60, 0.5)
    print(f"{release} reads the new window")
    served = pairs(loop, before, after)
    assert all(long >= short for long, short in served)
    assert {name: loop.stack.supervisor.pid(name) for name in pids} == pids
    assert await loop.ledger() == {}


async def defined(loop: Loop) -> int:
    """Id of the feature as the registry has it."""
    with loop.environment():
        plan = await asyncio.to_thread(load_plan, loop.feature_repo)
    (feature,) = (f for f in plan.definitions().values() if f.name == "impressions_1h")
    return feature.id


def pairs(loop: Loop, old: int, new: int) -> list[tuple[float, float]]:
    """Values of both windows in impressions that carry both."""
    found = [(value(i, old), value(i, new)) for i in loop.impressions()]
    return [(a, b) for a, b in found if not math.isnan(a) and not math.isnan(b)]


def value(impression: events_pb2.Impression, feature_id: int) -> float:
    """As served; NaN when it is missing."""
    values = dict(zip(impression.user_feature_ids, impression.user_features, strict=True))
    return values.get(feature_id, math.nan)
