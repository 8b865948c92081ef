"""A short run of ingest, features and joiner with everything that goes wrong: what the guards are for.

No gateway and no models: the driver writes to `events.in` itself, as the gateway does, and keeps what was
acknowledged. Shoppers see and click; some events come twice, some on the wrong partition, some clicks before
their impression, one shopper is a program; the services are killed, the online store is emptied.
"""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

import redis
from confluent_kafka import Message, Producer
from freshrank.v1.events_pb2 import Event, EventKind, Impression, ImpressionItem, Inbound

from services.common.ids import partition_of
from services.common.tokens import Tokens
from services.common.topics import EVENTS, INTERACTIONS, ITEM_INTERACTIONS
from services.demo.record import Record
from services.demo.services import environment
from services.online import scripts
from services.online.keys import ord_field
from tests.pipeline.loop import Loop, eventually

DRILLED = ("ingest", "features", "joiner")
STEADY = {f"FRESHRANK_{name.upper()}_SNAPSHOT_S": "4" for name in DRILLED}
STAGES = ((EVENTS, ("ingest",)), (INTERACTIONS, ("features", "joiner")), (ITEM_INTERACTIONS, ("features",)))


@dataclass
class Feed:
    """Writes to events.in and keeps what the broker acknowledged."""

    bootstrap: str
    tokens: Tokens
    record: Record
    partitions: int
    seed: int
    sent: list[tuple[Event, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 2})
        self._number = 0

    def send(self, event: Event, partition: int | None = None) -> None:
        """One event, on its user's partition unless told otherwise."""
        at = partition_of(event.user_id, self.partitions) if partition is None else partition
        value = Inbound(event=event, received_us=now_us()).SerializeToString()
        self._produce(value, event.user_id, at, event)

    def show(self, impression: Impression) -> None:
        """One impression; nobody waits for it."""
        value = Inbound(impression=impression, received_us=now_us()).SerializeToString()
        self._produce(value, impression.user_id, partition_of(impression.user_id, self.partitions), None)

    def _produce(self, value: bytes, user: str, partition: int, event: Event | None) -> None:
        def acknowledged(error: object, message: Message) -> None:
            if error is None and event is not None:
                place = (message.partition(), message.offset(), now_us())
                self.record.acknowledged(event.event_id, event.user_id, event.kind, *place)

        self._producer.produce(EVENTS.name, value, key=user.encode(), partition=partition, on_delivery=acknowledged)
        self._producer.poll(0)

    def turn(self) -> None:
        """What one shopper does: see a list, click once or twice on one item; now and then something goes wrong."""
        chance, user = self._random, f"u{self._random.randrange(60)}"
        shown = [f"i{n}" for n in chance.sample(range(80), 5)]
        impression = self._impression(user, shown)
        token = self.tokens.issue(impression.impression_id, user, impression.time_us)
        click = self.event(user, shown[1], EventKind.EVENT_KIND_CLICK, token)
        again = self.event(user, shown[1], EventKind.EVENT_KIND_CLICK, token)
        quick = chance.random() < 0.2
        for one in (click, impression) if quick else (impression, click):
            self.show(one) if isinstance(one, Impression) else self.send(one)
        if not quick:  # what was lost must not be made good by the second click
            self.send(again)
        if chance.random() < 0.3:
            self.send(click)
        view = self.event(user, shown[0], EventKind.EVENT_KIND_VIEW, "")
        wrong = (partition_of(user, self.partitions) + 1) % self.partitions
        self.send(view, wrong if chance.random() < 0.2 else None)
        self.sent.append((view, wrong))
        for _ in range(2):
            self.send(self.event("program", "i1", EventKind.EVENT_KIND_VIEW, ""))

    def again(self) -> None:
        """Events of a minute ago come once more, as from a shop's own retries."""
        for view, _ in self.sent[: len(self.sent) // 2]:
            self.send(view)

    def event(self, user: str, item: str, kind: int, token: str) -> Event:
        """A new event, now."""
        self._number += 1
        return Event(
            event_id=f"d{self._number}",
            kind=kind,  # type: ignore[arg-type]
            user_id=user,
            session_id=f"{user}-s",
            item_id=item,
            event_time_us=now_us(),
            attribution_token=token,
            source="drill",
        )

    def _impression(self, user: str, shown: list[str]) -> Impression:
        items = [
            ImpressionItem(item_id=item, position=place, shown=True, category=f"c{item[-1]}")
            for place, item in enumerate(shown)
        ]
        identity = f"{self._random.getrandbits(128):032x}"
        return Impression(impression_id=identity, user_id=user, session_id=f"{user}-s", time_us=now_us(), items=items)

    def flush(self) -> None:
        """Wait for all acknowledgements."""
        assert self._producer.flush(20) == 0


def now_us() -> int:
    return time.time_ns() // 1000


async def drill(loop: Loop, order: scripts.Script = scripts.WRITE) -> dict[str, str]:
    """Run it all on a started loop of the three services; the broken promises. `order`: what an old owner writes by."""
    keys = environment(loop.stack, loop.plan)["FRESHRANK_TOKEN_KEYS"]
    feed = Feed(loop.bootstrap, Tokens.parse(keys), loop.record, loop.partitions, loop.seed)
    feeding = asyncio.create_task(turns(feed, 14.0))
    with redis.Redis.from_url(loop.stack.redis.url) as store:
        await asyncio.sleep(5)
        before_it_was_emptied = hashes(store)
        for name in DRILLED:
            loop.kill(name)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(loop.restart, name)
        store.flushall()
        await feeding
        with suppress(AssertionError):  # whoever never notices an empty store never comes so far
            await eventually(lambda: store.get(EPOCH) is not None, 10)
        await turns(feed, 2.0)
        feed.flush()
        await caught_up(loop)
        await asyncio.sleep(1)
        since_it_was_emptied = hashes(store)
        await turns(feed, 3.0)
        feed.again()
        feed.flush()
        await caught_up(loop)
        await asyncio.sleep(2)
        wake_up(store, before_it_was_emptied, order)
        wake_up(store, since_it_was_emptied, order)
    return await asyncio.to_thread(loop.ask_oracle)


async def turns(feed: Feed, seconds: float) -> None:
    """Twenty shoppers a second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        feed.turn()
        await asyncio.sleep(0.05)


async def caught_up(loop: Loop) -> None:
    """All three have applied everything."""
    for topic, services in STAGES:
        ends = loop.follower.ends(topic.name)
        for service in services:
            await eventually(lambda s=service, e=ends: loop.follower._reached(s, e), 60)


MARK, EPOCH = ord_field("user_stats"), b"freshrank:freshrank:epoch:user_stats"


def hashes(store: redis.Redis) -> dict[bytes, dict[bytes, bytes]]:
    """All that the store holds of entities."""
    return {key: store.hgetall(key) for key in store.keys(b"*") if store.type(key) == b"hash"}


def wake_up(store: redis.Redis, old: dict[bytes, dict[bytes, bytes]], order: scripts.Script) -> None:
    """An owner that was asleep since then writes what it had in its hands."""
    for key, fields in old.items():
        if MARK in fields:
            named = [MARK, *(name for name in fields if name != MARK)]
            values = [fields[name] for name in named]
            epoch = int.from_bytes(fields[MARK][:4], "big")
            store.eval(
                order.source, 2, EPOCH, key,
                scripts.FENCE, epoch, 0, len(named), *named, *values,
            )  # fmt: skip
