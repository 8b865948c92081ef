"""Closed-loop traffic of the simulated shop: shoppers ask, look, click and come back.

Sessions arrive at a rate; browsing fills up to the wanted events per second. Some search. Now and then a producer
misbehaves: duplicates, late events, malformed ones, bots; new items and shoppers arrive; a flash sale starts; tastes
shift.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.api import Api
from services.demo.record import Answer
from services.demo.searching import ATTEMPTS, SearchBox
from services.demo.world import Shopper, World


@dataclass(frozen=True)
class Pace:
    """How much traffic for how long."""

    seconds: float = 120.0
    events_per_second: float = 150.0
    sessions_per_second: float = 4.0
    page_size: int = 20
    duplicates: float = 0.01
    late: float = 0.01
    malformed: float = 0.005
    searches: float = 0.3
    """Share of asking that is a search; the rest looks at what is recommended."""


class Traffic:
    """Drives one world against one gateway; `run` returns when the time is over and all events are sent."""

    def __init__(self, world: World, api: Api, pace: Pace, seed: int = 7) -> None:
        self._world, self._api, self._pace, self._box = world, api, pace, SearchBox(world, seed)
        self._tasks: set[asyncio.Task[None]] = set()
        # So many browse at once that nobody is as quick as a bot; who comes next takes the place of who came first.
        crowd = world.crowd(max(200, int(4 * pace.events_per_second)))
        self._browsers = {shopper.user_id: (shopper, world.begin_session(shopper)) for shopper in crowd}
        self.sent = 0
        self.malformed = 0
        self.searches = 0
        self._ends = 0.0

    async def run(self) -> None:
        """Traffic until the time is over, then until the last session has ended."""
        self._ends = time.monotonic() + self._pace.seconds
        await asyncio.gather(self._arrivals(), self._browsing(), self._happenings())
        await asyncio.gather(*self._tasks)

    def end(self) -> None:
        """Let the time be over now."""
        self._ends = time.monotonic()

    async def _arrivals(self) -> None:
        due = time.monotonic()
        while time.monotonic() < self._ends:
            due += 1.0 / self._pace.sessions_per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._session())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _session(self) -> None:
        world = self._world
        shopper = world.arrive()
        session = world.begin_session(shopper)
        if self._browsers.pop(shopper.user_id, None) is None:
            del self._browsers[next(iter(self._browsers))]
        self._browsers[shopper.user_id] = (shopper, session)
        asking = shopper_message(shopper, session)
        for _ in range(1 + int(3 * world.chance())):
            if self._box.wanted(self._pace.searches):
                await self._search(shopper, session, asking)
            else:
                asked = await self._api.recommend(asking, self._pace.page_size)
                if asked is None or time.monotonic() > self._ends:
                    return
                await self._react(shopper, session, asked, lambda item_id: 1.0)
            await asyncio.sleep(0.5 + 1.5 * world.chance())

    async def _search(self, shopper: Shopper, session: str, asking: ranking_pb2.Shopper) -> None:
        """Look for something, and once more in other words when nothing pleased."""
        intent = self._box.intend(shopper)
        for attempt in range(ATTEMPTS):
            query = self._box.query(intent, attempt)
            event = self._world.searched(shopper, session, query)
            event.event_time_us = _now_us()
            await self._send([event])
            asked = await self._api.search(asking, query, self._pace.page_size)
            if asked is None or time.monotonic() > self._ends:
                return
            self.searches += 1
            if await self._react(shopper, session, asked, lambda item_id: self._box.fit(intent, item_id)):
                return

    async def _react(
        self,
        shopper: Shopper,
        session: str,
        asked: tuple[ranking_pb2.RankingResponse, Answer],
        fit: Callable[[str], float],
    ) -> bool:
        """Do what the shopper does with an answer; True when something was clicked."""
        response, answer = asked
        token = response.attribution_token
        reaction = self._world.react(shopper, session, answer.items, token, answer.at_us, fit)
        answer.clicked |= set(reaction.clicked)
        answer.expected_clicks = reaction.expected_clicks
        began = time.monotonic()
        for delay, event in reaction.events:
            await asyncio.sleep(max(0.0, began + delay - time.monotonic()))
            event.event_time_us = _now_us()
            await self._send([event])
        return bool(reaction.clicked)

    async def _browsing(self) -> None:
        interval = 0.05
        sent_before, debt, due = self.sent, 0.0, time.monotonic()
        while time.monotonic() < self._ends:
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            debt += self._pace.events_per_second * interval - (self.sent - sent_before)
            sent_before = self.sent
            if debt >= 1:
                there = list(self._browsers.values())
                await self._send([self._browse_event(*self._one_of(there)) for _ in range(min(50, int(debt)))])

    def _one_of(self, there: list[tuple[Shopper, str]]) -> tuple[Shopper, str]:
        return there[int(self._world.chance() * len(there))]

    def _browse_event(self, shopper: Shopper, session: str) -> events_pb2.Event:
        event = self._world.browse(shopper, session)
        event.event_time_us = _now_us()
        if self._world.chance() < self._pace.late:
            event.event_time_us -= int(1.2e9 * self._world.chance())  # up to twenty minutes
        return event

    async def _send(self, events: list[events_pb2.Event]) -> None:
        world, pace = self._world, self._pace
        self.sent += len(events)
        doubles = [event for event in events if world.chance() < pace.duplicates]
        spoiled = [world.spoil(event) for event in events if world.chance() < pace.malformed]
        self.malformed += len(spoiled)
        await self._api.track(events)
        if doubles:
            await self._api.track(doubles)
        for bad in spoiled:
            await self._api.track([bad])

    async def _happenings(self) -> None:
        """New items every ten seconds, a flash sale at a third, a shift of tastes at two thirds of the time."""
        began, total = time.monotonic(), self._pace.seconds
        sale = shift = False
        while (left := self._ends - time.monotonic()) > 0:
            await asyncio.sleep(min(10.0, left))
            await self._api.stock(self._world.new_items(3, _now_us()))
            past = (time.monotonic() - began) / total
            if past > 1 / 3 and not sale:
                self._world.start_sale(_now_us(), total / 4)
                sale = True
            if past > 2 / 3 and not shift:
                self._world.shift_tastes(0.3)
                shift = True


def shopper_message(shopper: Shopper, session: str) -> ranking_pb2.Shopper:
    """The shopper as a request names them."""
    region, device, platform = shopper.context
    context = events_pb2.Context(region=region, device=device, platform=platform)
    return ranking_pb2.Shopper(user_id=shopper.user_id, session_id=session, context=context)


def _now_us() -> int:
    return time.time_ns() // 1000
