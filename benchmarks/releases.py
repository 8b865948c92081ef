"""A hundred releases under load: does a call fail, and how much later do answers come?

    python -m benchmarks.releases --out releases.json [--quick] [--releases 100]

Everything runs, and simulated shoppers give the trainer something to learn. Beside them Poisson arrivals ask for 100
candidates at half of the capacity that eight callers reached: previews of one known shopper, which take the whole way
of a Rank and leave no impression behind, or the model would learn from them. Windows take turns: releases frozen
(the trainer works on), and releases on, where a candidate every 12 s (by default 30) is exported, examined, loaded,
warmed, routed, watched, drained and unloaded. Latency counts from the intended time of sending. The gate's bounds on
quality are wide here: this is about the way of a release, and so often no model of minutes is better than the last.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from freshrank.v1 import models_pb2, models_pb2_grpc

from benchmarks import arrivals
from benchmarks.machine import percentiles, write_json
from benchmarks.rank import CALLERS, WIDE_GATE, Bench, prepare
from services.demo.cache import Progress, default_folder
from services.demo.tools import fetch
from services.demo.traffic import Pace, Traffic
from tests.pipeline.loop import Loop

EVERY_S = 12
SETTINGS = {**WIDE_GATE, "FRESHRANK_TRAINER_UPDATE_INTERVAL": str(EVERY_S)}
QUIET_S, BUSY_S = 8.0, 36.0
BACKGROUND = Pace(events_per_second=40, sessions_per_second=3)
PATIENCE = 1.1
"""So many times the windows that a release every few seconds would need, then it is over."""


class Operator:
    """The admin API, for the freeze switch."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._stub = models_pb2_grpc.AdminStub(self._channel)  # type: ignore[no-untyped-call]

    async def freeze(self, releases: bool) -> None:
        """Stop or allow releases."""
        await self._stub.SetFreeze(models_pb2.Freeze(releases=releases, actor="bench", reason="window"), timeout=10)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


@asynccontextmanager
async def shoppers(loop: Loop) -> AsyncIterator[None]:
    """Traffic for as long as the block runs."""
    async with loop.calling() as api:
        running = asyncio.create_task(Traffic(loop.world, api, Pace(**{**vars(BACKGROUND), "seconds": 1e6})).run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def decided(loop: Loop) -> Counter[str]:
    """Decisions of the publisher so far, by kind."""
    return Counter(str(line["decision"]) for line in loop.audit())


async def windows(loop: Loop, bench: Bench, operator: Operator, rate: float, wanted: int) -> dict[str, Any]:
    """Quiet and busy in turn until so many releases were routed."""
    quiet, busy = arrivals.Taken(), arrivals.Taken()
    before, rounds = decided(loop), 0
    most_rounds = max(1, round(PATIENCE * wanted * EVERY_S / BUSY_S))
    while (decided(loop) - before)["promoted"] < wanted and rounds < most_rounds:
        rounds += 1
        for taken, frozen, seconds in ((quiet, True, QUIET_S), (busy, False, BUSY_S)):
            await operator.freeze(frozen)
            await asyncio.sleep(1.0)  # what was under way ends
            found = await arrivals.poisson(bench.rank, rate, seconds, seed=rounds)
            taken.ms += found.ms
            taken.answers += [answer.release for answer in found.answers]
            taken.failed = dict(Counter(taken.failed) + Counter(found.failed))
        sofar = decided(loop) - before
        print(f"{sofar['promoted']} of {wanted} releases, {dict(sofar)}", file=sys.stderr, flush=True)
    return {
        "rounds": rounds,
        "decisions": dict(decided(loop) - before),
        "releases_in_answers": len(set(busy.answers)),
        "quiet_ms": percentiles(quiet.ms),
        "releasing_ms": percentiles(busy.ms),
        "calls": len(quiet.ms) + len(busy.ms),
        "failed": dict(Counter(quiet.failed) + Counter(busy.failed)),
    }


async def measure(loop: Loop, wanted: int) -> dict[str, Any]:
    """A first release, the capacity, then the windows."""
    bench = await prepare(loop)
    bench.request.preview = True
    operator = Operator(loop.plan.admin_port)
    async with shoppers(loop):
        await operator.freeze(True)
        await asyncio.sleep(2.0)
        most = await arrivals.capacity(bench.rank, CALLERS, 5.0)
        found = await windows(loop, bench, operator, most / 2, wanted)
        await operator.freeze(False)
    await operator.close()
    ratio = found["releasing_ms"]["p99"] / found["quiet_ms"]["p99"]
    return {
        "wanted": wanted,
        "settings": SETTINGS,
        "capacity_qps": round(most, 1),
        "asked_per_second": round(most / 2, 1),
        **found,
        "shoppers_calls_failed": dict(loop.record.failed),
        "p99_over_quiet": round(ratio, 3),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> int:
    """Exit status 1 when a call failed, or no new release served."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="three releases: does it run?")
    parser.add_argument("--releases", type=int, default=100)
    asked = parser.parse_args()
    tools = fetch(default_folder(os.environ), Progress(show_present=False))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), tools, SETTINGS)
        loop.start()
        try:
            result = asyncio.run(measure(loop, 3 if asked.quick else asked.releases))
            write_json(asked.out, result)
        finally:
            loop.stop()
    print(json.dumps(result, indent=1))
    return 0 if not result["failed"] and result["releases_in_answers"] > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
