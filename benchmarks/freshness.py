"""How old the answers are: from an acknowledged click to the feature, the row and the release that hold it.

    python -m benchmarks.freshness --out freshness.json [--quick] [--rate 500] [--seconds 420]

Everything runs: Kafka, Redis, Triton, six services, and simulated shoppers who send events at the given rate. Beside
them new probe shoppers ask, click, and ask again. An answer tells the ages of its features, rows and release; an age
smaller than the time since the click means that the click is in it. Times count from the acknowledgement, and
include the probe's own waiting between two questions. "delta" is the last part of the way of a row: from the moment
the trainer had written the row delta until an answer was made with it. The run is longer than the shortest windows of
features: what leaves them is written too. Label windows and the trainer's interval are the defaults. Releases are
judged by labels of 30 s (so long does a page take to read) and the newest 400 impressions; scores may move as those of
a model in its first minutes must. What the gate refuses waits for one more interval.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freshrank.v1 import events_pb2
from safetensors import safe_open

from benchmarks.machine import percentiles, write_json
from services.demo.api import Api
from services.demo.cache import Progress, default_folder
from services.demo.record import Record
from services.demo.tools import fetch
from services.demo.traffic import Pace, Traffic, shopper_message
from services.demo.world import World
from tests.pipeline.loop import Loop

SETTINGS = {
    "FRESHRANK_PUBLISHER_RIPE_S": "30",
    "FRESHRANK_PUBLISHER_LEAST_IMPRESSIONS": "100",
    "FRESHRANK_PUBLISHER_REPLAY_IMPRESSIONS": "400",
    "FRESHRANK_PUBLISHER_STABILITY": "2",
    "FRESHRANK_TRAINER_UPDATE_INTERVAL": "30",
}
EVERY_S = {"feature": 0.05, "row": 0.1, "release": 1.0}
"""Between two questions of a probe, while it waits for this: previews, which are answered and leave no trace."""
GIVE_UP_S = {"feature": 10.0, "row": 30.0, "release": 150.0}
PROBES_PER_SECOND = 1.0
FOLLOW_RELEASE = 5
"""Every so manieth probe waits for the release too: questions are traffic."""


class Deltas:
    """When the trainer wrote which delta; `watch` must look before they are folded into a base."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, set[str]()
        self._written: dict[int, float] = {}

    async def watch(self) -> None:
        """Look every half second, for ever."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(0.5)

    def seconds(self, learned_up_to_us: float, seen_us: int) -> float | None:
        """Between the writing of the delta that reaches so far and an answer; None when none is near (0.2 s)."""
        near = min(self._written, key=lambda known: abs(known - learned_up_to_us), default=0)
        return seen_us / 1e6 - self._written[near] if abs(near - learned_up_to_us) < 200_000 else None

    def _look(self) -> None:
        for path in self._folder.glob("*.safetensors"):
            if path.name not in self._known:
                with safe_open(path, "np") as file:
                    self._written[int(file.metadata()["learned_up_to_us"])] = path.stat().st_mtime
                self._known.add(path.name)


@dataclass
class Seen:
    """Seconds per stage of all probes, and what never came."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in EVERY_S})
    rows: list[tuple[float, int]] = field(default_factory=list)
    """Of each row that came: what it had learned up to, and the time of the answer, µs."""
    missed: dict[str, int] = field(default_factory=dict)

    def miss(self, stage: str, what: object = "") -> None:
        """Count a change that was not seen in time, and say what was seen instead."""
        self.missed[stage] = self.missed.get(stage, 0) + 1
        print(f"missed: {stage} {what}", file=sys.stderr, flush=True)


async def probe(api: Api, world: World, number: int, seen: Seen) -> None:
    """One new shopper: an answer, a click, and questions until the click is in the answers."""
    shopper = world.newcomer()
    session = world.begin_session(shopper)
    asking = shopper_message(shopper, session)
    first = await api.recommend(asking, 8)
    if first is None or not first[0].results:
        seen.miss("answer")
        return
    clicked_us = time.time_ns() // 1000
    event = events_pb2.Event(
        event_id=f"probe-{number}-{clicked_us}",
        kind=events_pb2.EVENT_KIND_CLICK,
        user_id=shopper.user_id,
        session_id=session,
        item_id=first[1].items[0],
        event_time_us=clicked_us,
        attribution_token=first[0].attribution_token,
        source="bench",
    )
    if not await api.track([event]):
        seen.miss("acknowledgement")
        return
    acknowledged = time.monotonic()
    for stage in ("feature", "row") + (("release",) if number % FOLLOW_RELEASE == 0 else ()):
        while True:
            asked = await api.recommend(asking, 8, preview=True)
            passed = time.monotonic() - acknowledged
            if asked is not None and _holds(stage, asked[1].ages_ms, asked[1].at_us - clicked_us):
                seen.seconds[stage].append(passed)
                if stage == "row":
                    answer = asked[1]
                    seen.rows.append((answer.at_us - (answer.latency_ms + answer.ages_ms[2]) * 1000, answer.at_us))
                break
            if passed > GIVE_UP_S[stage]:
                seen.miss(stage, (shopper.user_id, clicked_us, asked and asked[1]))
                break
            await asyncio.sleep(EVERY_S[stage])


def _holds(stage: str, ages_ms: tuple[float, float, float, float], since_us: int) -> bool:
    features, _, rows, release = ages_ms
    age_ms = {"feature": features, "row": rows, "release": release}[stage]
    return 0 <= age_ms * 1000 <= since_us


async def measure(loop: Loop, rate: float, seconds: float) -> dict[str, Any]:
    """Traffic at the rate, and probes once it runs evenly."""
    loop.world = world = World("shop", loop.seed, shoppers=max(600, int(10 * rate)), items=loop.items)
    await loop.serving()
    record = Record()
    api, quiet = Api(loop.plan.gateway, record), Api(loop.plan.gateway, Record(), deadline_s=5.0)
    seen, probes = Seen(), set()
    warm = min(10.0, seconds / 4)
    pace = Pace(seconds=warm + seconds, events_per_second=rate)
    gc.collect()
    gc.freeze()  # a pause of this process would be told as one of the stages
    traffic = asyncio.create_task(Traffic(world, api, pace).run())
    deltas = Deltas(loop.plan.store / "arms" / "main" / "deltas")
    watching = asyncio.create_task(deltas.watch())
    await asyncio.sleep(warm)
    before, began, number = record.events, time.monotonic(), 0
    while (now := time.monotonic()) - began < seconds:
        # Probes follow from the start of their second, whatever the ones before them do.
        probes.add(asyncio.create_task(probe(quiet, world, number, seen)))
        number += 1
        await asyncio.sleep(max(0.0, began + number / PROBES_PER_SECOND - now))
    sent = (record.events - before) / (time.monotonic() - began)
    # Who still waits for a release needs traffic, or there is nothing to learn from.
    tail = asyncio.create_task(Traffic(world, api, Pace(seconds=90, events_per_second=rate)).run())
    await traffic
    await asyncio.gather(*probes)
    tail.cancel()
    watching.cancel()
    seen.seconds["delta"] = [s for row in seen.rows if (s := deltas.seconds(*row)) is not None]
    await api.close()
    await quiet.close()
    found = {stage: percentiles(values) for stage, values in seen.seconds.items() if values}
    releases = {answer.release for answer in record.answers if answer.release}
    return {
        "asked_per_second": rate,
        "events_per_second": round(sent, 1),
        "measured_s": seconds,
        "probes": number,
        "settings": SETTINGS,
        "seconds": found,
        "missed": sum(seen.missed.values()),
        "missed_by_stage": seen.missed,
        "releases": len(releases),
        "decisions": [f"{line['decision']}: {line.get('reason', '')}" for line in loop.audit()],
        "failed_calls": dict(record.failed),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> int:
    """Exit status 1 when a stage was never seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="twenty seconds: does it run?")
    parser.add_argument("--rate", type=float, default=500.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=420.0)
    asked = parser.parse_args()
    seconds = 20.0 if asked.quick else asked.seconds
    tools = fetch(default_folder(os.environ), Progress(show_present=False))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), tools, SETTINGS)
        loop.start()
        try:
            result = asyncio.run(measure(loop, asked.rate, seconds))
            write_json(asked.out, result)
        finally:
            loop.stop()
    print(json.dumps(result, indent=1))
    return 0 if set(result["seconds"]) >= set(EVERY_S) else 1


if __name__ == "__main__":
    sys.exit(main())
