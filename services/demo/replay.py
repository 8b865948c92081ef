"""A real log through the gateway's API, on one of two clocks.

Lockstep: before each request every stage has applied what came before it (for evaluation). Speed N: the log's time
runs N times as fast as the clock on the wall, or as fast as it goes with 0; requests of different shoppers are then on
their way at once, those of one shopper follow one another.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from freshrank.v1 import events_pb2

from services.common.kafka import Outbox
from services.common.topics import EVENTS
from services.demo.api import Api
from services.demo.follow import Follower
from services.demo.loaders.steps import Ask, Stock, Tell
from services.demo.studies import Early, Study

TICK_EVERY_US = 1_000_000
"""Log time between ticks, so that windows and label windows move although nobody is in the shop."""

CHUNK = 200
"""Events told at once."""

IN_FLIGHT = 16
"""Requests on their way at once, when nobody waits for the stages."""

LIKED = 4.0
TAKING = (events_pb2.EVENT_KIND_CLICK, events_pb2.EVENT_KIND_ADD_TO_CART, events_pb2.EVENT_KIND_PURCHASE)
"""Events by which a shopper takes an item of an answer; who rates one may have it from elsewhere."""

BURST, BURST_US = 500, 600_000_000
"""Steps, and log time, that may overtake one another: far less than the lateness that the services allow."""


@dataclass(frozen=True)
class Speed:
    """How a replay keeps time."""

    lockstep: bool = False
    factor: float = 0.0
    """Log seconds per second; 0 = as fast as it goes."""


def took(event: events_pb2.Event) -> bool:
    """Whether an event says that the shopper wanted the item; a rating does from four of five on."""
    return event.kind in TAKING or (event.kind == events_pb2.EVENT_KIND_RATE and event.rating >= LIKED)


class Replay:
    """Drives the steps of one log; `run` returns when the last one is answered."""

    def __init__(
        self,
        api: Api,
        follower: Follower,
        outbox: Outbox,
        partitions: int,
        speed: Speed,
        ahead: Sequence[Early] = (),
    ) -> None:
        """`ahead`: requests to be asked ahead of their time as well, in order; for lockstep only."""
        self._api, self._follower, self._outbox = api, follower, outbox
        self._ahead = deque(ahead)
        self.study = Study(api)
        self._partitions, self._speed = partitions, speed
        self._ticked_us = 0
        self._pending: list[events_pb2.Event] = []
        self.asked = 0
        self.events = 0

    async def run(self, steps: Iterable[Ask | Tell | Stock], progress: Callable[["Replay"], None]) -> None:
        """Take the steps in order."""
        await (self._in_lockstep(steps, progress) if self._speed.lockstep else self._in_bursts(steps, progress))
        await self.finish()

    async def _in_lockstep(self, steps: Iterable[Ask | Tell | Stock], progress: Callable[["Replay"], None]) -> None:
        for step in steps:
            if isinstance(step, Stock):
                await self._api.stock(step.items)
                continue
            await self._look_early(step.time_us)
            if isinstance(step, Tell):
                await self._tell(step.events)
            else:  # between two questions nobody looks at the time
                await self._tick(step.time_us)
                await self._flush()
                await self._follower.caught_up()
                await self._ask(step)
            progress(self)

    async def _in_bursts(self, steps: Iterable[Ask | Tell | Stock], progress: Callable[["Replay"], None]) -> None:
        began, first_us = time.monotonic(), 0
        burst: list[Ask | Tell] = []
        for step in steps:
            if isinstance(step, Stock):
                await self._together(burst)
                await self._api.stock(step.items)
                continue
            first_us = first_us or step.time_us
            past_us = step.time_us - first_us
            full = bool(burst) and (len(burst) == BURST or step.time_us - burst[0].time_us > BURST_US)
            if full or self._wait_s(began, past_us) > 0:
                await self._together(burst)
                progress(self)
                await asyncio.sleep(self._wait_s(began, past_us))
            burst.append(step)
        await self._together(burst)
        progress(self)

    async def _together(self, burst: list[Ask | Tell]) -> None:
        """Take the steps of different shoppers at once, then let the time of the log pass; empties the list."""
        if not burst:
            return
        turns: dict[str, list[Ask | Tell]] = defaultdict(list)
        for step in burst:
            turns[step.shopper.user_id if isinstance(step, Ask) else step.events[0].user_id].append(step)
        room = asyncio.Semaphore(IN_FLIGHT)
        await asyncio.gather(*(self._turn(room, mine) for mine in turns.values()))
        await self._follower.impressions_sent()  # one that comes after the next burst is late by the time of the log
        await self._flush()
        await self._tick(burst[-1].time_us)
        burst.clear()

    async def _turn(self, room: asyncio.Semaphore, steps: list[Ask | Tell]) -> None:
        """Steps of one shopper, in order; what they told before a question is known before it."""
        told: list[events_pb2.Event] = []
        async with room:
            for step in steps:
                if isinstance(step, Ask):
                    await self._track(told)
                    told = []
                    await self._ask(step)
                else:
                    told += step.events
        await self._tell(told)

    async def finish(self, beyond_us: int = 3_600_000_000) -> None:
        """Move the log clock past the label windows, so that the last examples close."""
        await self._flush()
        await self._tick(self._ticked_us + beyond_us)

    def _wait_s(self, began: float, past_us: int) -> float:
        factor = self._speed.factor
        return max(0.0, began + past_us / 1e6 / factor - time.monotonic()) if factor > 0 else 0.0

    async def _tick(self, time_us: int) -> None:
        if time_us - self._ticked_us < TICK_EVERY_US:
            return
        await self._follower.impressions_sent()
        await self._flush()
        self._ticked_us = time_us
        value = events_pb2.Inbound(tick=events_pb2.Tick(time_us=time_us), received_us=time_us).SerializeToString()
        sends = [self._outbox.send(EVENTS.name, value, partition=p) for p in range(self._partitions)]
        await asyncio.gather(*sends)

    async def _look_early(self, before_us: int) -> None:
        while self._ahead and self._ahead[0].time_us <= before_us:
            one = self._ahead.popleft()
            await self._tick(one.time_us)
            await self._flush()
            await self._follower.caught_up()
            await self.study.look_early(one)

    async def _tell(self, events: list[events_pb2.Event]) -> None:
        self._pending += events
        if len(self._pending) >= CHUNK:
            await self._flush()

    async def _flush(self) -> None:
        events, self._pending = self._pending, []
        await self._track(events)

    async def _track(self, events: list[events_pb2.Event]) -> None:
        self.events += len(events)
        for start in range(0, len(events), CHUNK):
            await self._api.track(events[start : start + CHUNK])

    async def _ask(self, step: Ask) -> None:
        if step.candidates:
            asked = await self._api.rank(step.shopper, step.candidates, step.time_us)
        else:
            asked = await self._api.recommend(step.shopper, 20, step.time_us)
        self.asked += 1
        if asked is not None:
            _, answer = asked
            await self.study.answered(step, answer.items, answer.token, answer.release)
            answer.at_us = step.time_us
            answer.wanted = step.wanted
            taken = {event.item_id for event in step.events if took(event)}
            answer.clicked |= taken & set(answer.items)
            for event in step.events:
                event.attribution_token = answer.token
        await self._track(step.events)
