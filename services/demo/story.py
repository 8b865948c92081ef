"""One shopper's ranking before a click, after it, and after the next model update, with the seconds each took."""

import asyncio
import time
from dataclasses import dataclass, field

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.api import Api
from services.demo.traffic import shopper_message
from services.demo.world import World

POLL_S = 0.02
WAIT_S = 120.0


@dataclass
class Story:
    """Three rankings and how long each change took to be served."""

    rankings: dict[str, list[str]] = field(default_factory=dict)
    query: str = ""
    searches: dict[str, list[str]] = field(default_factory=dict)
    """The same shopper's search, at the same moments."""
    clicked: str = ""
    feature_s: float = float("nan")
    """From the acknowledged click to the first answer computed from features that include it."""
    row_s: float = float("nan")
    """To the first answer from rows that have learned up to it."""
    release_s: float = float("nan")
    """To the first answer of a dense model that has learned up to it."""


async def tell_story(api: Api, world: World) -> Story:
    """Follow one new shopper; needs a running gateway with a release and traffic beside it."""
    shopper = world.arrive()
    session = world.begin_session(shopper)
    asking = shopper_message(shopper, session)
    story = Story()
    first = await api.recommend(asking, 8)
    if first is None or not first[0].results:
        return story
    response, answer = first
    story.rankings["before the click"] = _names(world, answer.items)
    item_id = answer.items[min(4, len(answer.items) - 1)]
    story.clicked, story.query = world.items[item_id].title, world.items[item_id].categories[0]
    await _search(api, world, asking, "before the click", story)
    clicked_us = time.time_ns() // 1000
    event = events_pb2.Event(
        event_id=f"story-{clicked_us}",
        kind=events_pb2.EVENT_KIND_CLICK,
        user_id=shopper.user_id,
        session_id=session,
        item_id=item_id,
        event_time_us=clicked_us,
        attribution_token=response.attribution_token,
        source="demo",
    )
    await api.track([event])
    answer.clicked.add(item_id)
    acknowledged = time.monotonic()
    await _watch(api, world, asking, clicked_us, acknowledged, story)
    return story


async def _watch(
    api: Api, world: World, asking: ranking_pb2.Shopper, clicked_us: int, acknowledged: float, story: Story
) -> None:
    poll_s = POLL_S
    while time.monotonic() - acknowledged < WAIT_S and story.release_s != story.release_s:
        asked = await api.recommend(asking, 8)
        if asked is not None:
            _note(asked[1].ages_ms, asked[1].at_us - clicked_us, time.monotonic() - acknowledged, story)
            if "after the click" not in story.rankings and story.feature_s == story.feature_s:
                story.rankings["after the click"] = _names(world, asked[1].items)
                await _search(api, world, asking, "after the click", story)
            if story.release_s == story.release_s:
                story.rankings["after the next model"] = _names(world, asked[1].items)
                await _search(api, world, asking, "after the next model", story)
        # Features change within a second, models within a minute: look often first, seldom then.
        poll_s = POLL_S if story.feature_s != story.feature_s else 1.0
        await asyncio.sleep(poll_s)


async def _search(api: Api, world: World, asking: ranking_pb2.Shopper, when: str, story: Story) -> None:
    asked = await api.search(asking, story.query, 8, preview=True)
    if asked is not None:
        story.searches[when] = _names(world, asked[1].items)


def _note(ages_ms: tuple[float, float, float, float], since_us: int, passed_s: float, story: Story) -> None:
    """An age smaller than the time since the click means: the click is in it."""
    features, _, rows, release = (age * 1000 <= since_us if age >= 0 else False for age in ages_ms)
    if features and story.feature_s != story.feature_s:
        story.feature_s = passed_s
    if rows and story.row_s != story.row_s:
        story.row_s = passed_s
    if release and story.release_s != story.release_s:
        story.release_s = passed_s


def _names(world: World, items: list[str]) -> list[str]:
    return [f"{world.items[i].title} ({i})" if i in world.items else i for i in items]
