"""Load as it comes from many: calls at random moments, timed from when they were meant to be sent."""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

Call = Callable[[], Awaitable[Any]]


@dataclass
class Taken:
    """What became of the calls."""

    ms: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    """By gRPC status."""
    answers: list[Any] = field(default_factory=list)


async def poisson(call: Call, rate: float, seconds: float, seed: int = 5) -> Taken:
    """Calls at `rate` a second, however long the ones before them take.

    What this process holds already is kept from its garbage collector meanwhile: its pauses are not the callee's.
    """
    gc.collect()
    gc.freeze()
    try:
        return await _poisson(call, rate, seconds, seed)
    finally:
        gc.unfreeze()


async def _poisson(call: Call, rate: float, seconds: float, seed: int) -> Taken:
    chosen, tasks, taken = random.Random(seed), [], Taken()

    async def one(due: float) -> None:
        try:
            taken.answers.append(await call())
            taken.ms.append((time.perf_counter() - due) * 1e3)
        except grpc.aio.AioRpcError as error:
            name = error.code().name
            taken.failed[name] = taken.failed.get(name, 0) + 1

    due = began = time.perf_counter()
    while (due := due + chosen.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    if not taken.ms:
        raise SystemExit(f"no call of the open loop was answered: {taken.failed}")
    return taken


async def capacity(call: Call, callers: int, seconds: float) -> float:
    """Calls a second of several callers, each one at a time."""
    ends, done = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await call()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - began)
