"""A hundred thousand events while everything is killed, stopped, joined, left and emptied; then the ledger.

Shoppers are recommended things and search, by words and by meaning; amid it all another encoder is offered. The seed,
printed, chooses the traffic and the order and moments of the faults.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from freshrank.v1 import ranking_pb2

from services.demo import encoder
from services.demo.cache import Progress, default_folder
from services.demo.services import SERVICES, answers
from services.demo.tools import Tools
from services.demo.traffic import Pace
from tests.pipeline.loop import Loop, eventually

pytestmark = [pytest.mark.pipeline, pytest.mark.long]

EVENTS = 100_000
SCALED = ("ingest", "features", "joiner")
STOPPED_S = 14.0
"""Longer than the group's session: others take over what the stopped owner had."""


@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15])
async def test_the_ledger_holds_after_a_hundred_thousand_events_and_every_fault(
    tools: Tools, tmp_path: Path, seed: int
) -> None:
    print(f"seed {seed}")
    loop = Loop(tmp_path, tools, partitions=4, seed=seed, items=1_500)
    loop.start()
    try:
        assert await campaign(loop, seed, EVENTS) == {}
    finally:
        loop.stop()


async def campaign(loop: Loop, seed: int, events: int, per_second: float = 400) -> dict[str, str]:
    """Traffic of so many events with every fault at least once; the broken promises."""
    await loop.serving()
    first = await another_encoder(loop)
    await eventually(lambda: meant_by(loop) == first, 240)
    faults = [*(killed(name) for name in (*SERVICES, "redis", "triton")), stub_killed, emptied, another_encoder]
    faults += [*(joined(name) for name in SCALED), *(stopped(name) for name in SCALED)]
    random.Random(seed).shuffle(faults)
    while faults or loop.record.events < events:
        async with loop.traffic(Pace(seconds=20, events_per_second=per_second, sessions_per_second=8)):
            await asyncio.sleep(random.Random(seed + len(faults)).uniform(1, 4))
            if faults:
                fault = faults.pop()
                await fault(loop)
                print(f"{loop.record.events} events; {fault.__name__}; ended: {await loop.revive()}", flush=True)
    await loop.revive()
    broken = await loop.ledger(300)
    await eventually(lambda: meant_by(loop) not in ("", first), 240)
    await found_by_meaning(loop)
    return broken


async def another_encoder(loop: Loop) -> str:
    """A candidate of the same weights under another name: all items get other vectors, then all searches move."""
    folder = encoder.provide(default_folder(os.environ), Progress(show_present=False))
    return await asyncio.to_thread(encoder.offer, folder, loop.plan.store, time.time_ns() // 1000)


def meant_by(loop: Loop) -> str:
    """The encoder that the gateway uses."""
    return str(loop.follower.positions("gateway").get("encoder"))


async def found_by_meaning(loop: Loop) -> None:
    """An item put in after all the faults is found by words that it does not have."""
    sofa = ranking_pb2.Item(item_id="sofa", title="grey sofa with three seats", categories=["home"], stock=5)
    wish = ranking_pb2.SearchRequest(
        shopper=ranking_pb2.Shopper(user_id="afterwards"), query="couch for the living room", page_size=50
    )
    async with loop.calling() as api:
        await api.stock([sofa])

        async def found() -> bool:
            answer = await api.stub.Search(wish, timeout=5)
            return "sofa" in {result.item_id for result in answer.results}

        await eventually(found, 60)


Fault = Callable[[Loop], Awaitable[object]]


def killed(name: str) -> Fault:
    """SIGKILL, and started again."""

    async def fault(loop: Loop) -> None:
        loop.kill(name)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(loop.restart, name)

    fault.__name__ = f"SIGKILL of {name}"
    return fault


async def stub_killed(loop: Loop) -> None:
    """The processes that run a model die, the ranker's and the encoder's; the server does not."""
    for pid in loop.stack.supervisor.pids("triton")[1:]:
        if "triton_python" in Path(f"/proc/{pid}/cmdline").read_bytes().decode():
            os.kill(pid, signal.SIGKILL)


async def emptied(loop: Loop) -> None:
    """FLUSHALL."""
    with redis.Redis.from_url(loop.stack.redis.url) as store:
        await asyncio.to_thread(store.flushall)


def joined(name: str) -> Fault:
    """A second worker comes and goes."""

    async def fault(loop: Loop) -> None:
        second = start_second(loop, name)
        await asyncio.to_thread(loop.stack.supervisor.wait_ready, second)
        await asyncio.sleep(5)
        await asyncio.to_thread(loop.stack.supervisor.stop, second)

    fault.__name__ = f"{name} joins and leaves"
    return fault


def stopped(name: str) -> Fault:
    """SIGSTOP of the owner until another has taken over; then it wakes up with old work in its hands."""

    async def fault(loop: Loop) -> None:
        second = start_second(loop, name)
        await asyncio.to_thread(loop.stack.supervisor.wait_ready, second)
        loop.stack.kill(name, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        loop.stack.kill(name, signal.SIGCONT)
        await asyncio.sleep(3)
        await asyncio.to_thread(loop.stack.supervisor.stop, second)

    fault.__name__ = f"SIGSTOP of {name} until another owns its partitions"
    return fault


def start_second(loop: Loop, name: str) -> str:
    """Another worker of a service; its name. Its name counts up: a supervisor knows each once."""
    first, port = loop.program(name), loop.stack.take_port()
    second = f"{name}-{port}"
    variables = {**first.environment, f"FRESHRANK_{name.upper()}_HTTP_PORT": str(port)}
    url = f"http://127.0.0.1:{port}/readyz"
    loop.stack.supervisor.start(replace(first, name=second, environment=variables, ready=lambda: answers(url)))
    return second
