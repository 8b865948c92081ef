"""A log at full speed: nothing is left out, one shopper's steps keep their order, time passes behind the events."""

import asyncio
import random
from dataclasses import dataclass, field

from freshrank.v1 import events_pb2, ranking_pb2

from services.common.topics import EVENTS
from services.demo.loaders.steps import Ask, Stock, Tell
from services.demo.record import Answer
from services.demo.replay import Replay, Speed

SECOND = 1_000_000


@dataclass
class Gateway:
    """Takes its time, a different one each call, and notes what came in which order."""

    calls: list[tuple[str, str, int]] = field(default_factory=list)
    """(kind, shopper or event id, time of the log)."""
    most_at_once: int = 0
    _now: int = 0
    _unsent: list[tuple[str, str, int]] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(5))

    async def recommend(
        self, shopper: ranking_pb2.Shopper, size: int, time_us: int
    ) -> tuple[ranking_pb2.RankingResponse, Answer]:
        self.calls.append(("ask", shopper.user_id, time_us))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0.002 * self._chance.random())
        self._now -= 1
        self._unsent.append(("impression", shopper.user_id, time_us))
        answer = Answer(0, "r1", 0, f"token-{shopper.user_id}-{time_us}", ["a"], [0.5], 1.0, (0, 0, 0, 0))
        return ranking_pb2.RankingResponse(), answer

    async def track(self, events: list[events_pb2.Event]) -> list[ranking_pb2.TrackResult]:
        await asyncio.sleep(0.002 * self._chance.random())
        self.calls += [("event", event.event_id, event.event_time_us) for event in events]
        return []

    async def stock(self, items: list[ranking_pb2.Item]) -> None:
        self.calls += [("stock", item.item_id, 0) for item in items]

    async def impressions_sent(self) -> None:
        """They go to the log behind the answers, when nobody looks: here as late as they can."""
        await asyncio.sleep(0)
        self.calls += self._unsent
        self._unsent.clear()

    async def send(self, topic: str, value: bytes, partition: int) -> None:
        assert topic == EVENTS.name
        self.calls.append(("tick", str(partition), events_pb2.Inbound.FromString(value).tick.time_us))


def event(user: str, number: int, time_us: int) -> events_pb2.Event:
    return events_pb2.Event(event_id=f"{user}-{number}", user_id=user, event_time_us=time_us)


def log(shoppers: int, rounds: int) -> list[Ask | Tell | Stock]:
    """Each shopper tells, asks and answers in turn, in one second each round."""
    steps: list[Ask | Tell | Stock] = [Stock([ranking_pb2.Item(item_id="a")])]
    for turn in range(rounds):
        at = (100 + turn) * SECOND
        for number in range(shoppers):
            user = f"u{number}"
            steps.append(Tell(at, [event(user, 2 * turn, at)]))
            steps.append(Ask(at, ranking_pb2.Shopper(user_id=user), events=[event(user, 2 * turn + 1, at)]))
    return steps


async def replayed(steps: list[Ask | Tell | Stock]) -> Gateway:
    gateway = Gateway()
    replay = Replay(gateway, gateway, gateway, 1, Speed())
    await replay.run(steps, lambda _: None)
    return gateway


async def test_every_event_is_told_once_and_each_shopper_keeps_their_order() -> None:
    gateway = await replayed(log(shoppers=9, rounds=70))
    told = [name for kind, name, _ in gateway.calls if kind == "event"]
    assert len(told) == len(set(told)) == 2 * 9 * 70
    for user in (f"u{number}" for number in range(9)):
        mine = [call for call in gateway.calls if call[0] != "impression" and call[1].split("-")[0] == user]
        wanted = [
            call
            for turn in range(70)
            for call in (
                ("event", f"{user}-{2 * turn}", (100 + turn) * SECOND),
                ("ask", user, (100 + turn) * SECOND),
                ("event", f"{user}-{2 * turn + 1}", (100 + turn) * SECOND),
            )
        ]
        assert mine == wanted


async def test_different_shoppers_ask_at_once() -> None:
    assert (await replayed(log(shoppers=40, rounds=3))).most_at_once > 8


async def test_time_passes_only_behind_what_happened_before_it() -> None:
    gateway = await replayed(log(shoppers=20, rounds=70))
    assert sum(kind == "impression" for kind, *_ in gateway.calls) == 20 * 70
    clock = 0
    for kind, _, at in gateway.calls:
        if kind == "tick":
            assert at >= clock
            clock = at
        elif kind != "stock":
            assert at >= clock, "what came after the tick is no older than it"
    assert clock == (100 + 69) * SECOND + 3_600 * SECOND, "the last one closes the label windows"


async def test_the_answers_token_goes_with_what_was_done_with_it() -> None:
    steps = log(shoppers=2, rounds=2)
    await replayed(steps)
    asks = [step for step in steps if isinstance(step, Ask)]
    assert [one.events[0].attribution_token for one in asks] == [
        f"token-{one.shopper.user_id}-{one.time_us}" for one in asks
    ]
