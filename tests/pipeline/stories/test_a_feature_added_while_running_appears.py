"""A new feature goes into the repository while shoppers come and go: filled from the past, served, and learned from."""

import asyncio
from pathlib import Path

import pytest

from services.demo.services import SERVICES
from services.online.registry import load_plan
from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline

LINE = '        count("story_views_1d", ONE_DAY, "kind == \'view\'"),\n'


async def test_it_appears_in_impressions_and_the_next_release_back_filled_without_a_restart(loop: Loop) -> None:
    await loop.serving()
    pids = {name: loop.stack.supervisor.pid(name) for name in SERVICES}
    add_to_user_stats(loop.feature_repo)
    async with loop.traffic():
        assert "user_stats:story_views_1d" in await asyncio.to_thread(loop.apply_features)
        with loop.environment():
            plan = await asyncio.to_thread(load_plan, loop.feature_repo)
        (added,) = (f for f in plan.definitions().values() if f.name == "story_views_1d")
        found = await eventually(lambda: served(loop, added.id), 60, 1.0)
    print(f"{found} impressions carry it")
    async with loop.traffic():
        release = await eventually(lambda: loop.learned(added.id), 60, 0.5)
    print(f"{release} reads it")
    assert {name: loop.stack.supervisor.pid(name) for name in pids} == pids
    # The oracle recomputes every feature of the registry from the whole log: the new one over its past, too.
    assert await loop.ledger() == {}


def add_to_user_stats(repository: Path) -> None:
    """What a person does: one line more in the view, and its name in the list of what models read."""
    views, services = repository / "views.py", repository / "feature_services.py"
    text = views.read_text()
    place = text.index('        count("views_5m"')
    views.write_text(text[:place] + LINE + text[place:])
    services.write_text(services.read_text().replace('"views_5m",', '"views_5m", "story_views_1d",', 1))


def served(loop: Loop, feature_id: int) -> int:
    """How many impressions carry a value of the feature."""
    count = 0
    for impression in loop.impressions():
        values = dict(zip(impression.user_feature_ids, impression.user_features, strict=True))
        count += feature_id in values and values[feature_id] > 0
    return count
