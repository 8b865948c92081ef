"""Rank of 100 candidates through everything, against the sum of measured floors; then at half capacity.

    python -m benchmarks.rank --out rank.json [--quick] [--calls 400] [--seconds 60]

Six services, Kafka, Redis and Triton run; simulated traffic makes a first release; then traffic ends, and one known
shopper asks for 100 candidates over and over. In turn with the calls, in the same run:

- echo: a gRPC server in a process of its own answers as many bytes as the gateway does to as many
- read: what the gateway reads of this shopper for these candidates, by `MatrixReader`, in one round trip
- onnxruntime: the released model in this process, the same inputs padded to 128
- triton: the same inputs by the gateway's own scorer; less onnxruntime it is what Triton adds

The trainer stands still (SIGSTOP) for all this. Then Poisson arrivals at half of the capacity that eight callers
reached, latency from the intended time of sending, with the trainer at work and stopped; one answer in ten is
clicked, so that there is something to learn. Scores must equal those
that onnxruntime gives for the impressions on the log, with the rows of the store, within 1e-4; rows that have moved
on since are not compared.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from freshrank.v1 import events_pb2, ranking_pb2, ranking_pb2_grpc

from benchmarks import arrivals
from benchmarks.machine import ROOT, percentiles, spread, write_json
from services.common.encode import encode
from services.common.spec import Arrays, padded, zeros
from services.common.tokens import impression_of
from services.demo.cache import Progress, default_folder
from services.demo.tools import fetch
from services.demo.traffic import shopper_message
from services.gateway import schema as schemas
from services.gateway.candidates import RowSlot
from services.gateway.feast import Ask, ShopperStore
from services.gateway.releases import Release, load_release
from services.gateway.triton import TritonScorer
from services.online.keys import KeyEncoder
from services.online.reader import MatrixReader, Read
from services.online.registry import load_plan
from services.online.wire import Endpoint
from services.publisher.onnx_file import OnnxModel
from tests.pipeline.loop import Loop

CANDIDATES = 100
WIDE_GATE = {
    "FRESHRANK_PUBLISHER_RIPE_S": "20",
    "FRESHRANK_PUBLISHER_LEAST_IMPRESSIONS": "60",
    "FRESHRANK_PUBLISHER_REPLAY_IMPRESSIONS": "500",
    "FRESHRANK_PUBLISHER_AUC_LOSS": "0.9",
    "FRESHRANK_PUBLISHER_LOG_LOSS_RISE": "0.9",
    "FRESHRANK_PUBLISHER_STABILITY": "100",
}
"""Bounds that what is learned in minutes from few shoppers passes: here it is about the way of a release."""
SETTINGS = {**WIDE_GATE, "FRESHRANK_TRAINER_UPDATE_INTERVAL": "30"}
"""The trainer's own default: stories hurry it, and a trainer that exports all the time would be measured instead."""
TOLERANCE = 1e-4
CALLERS = 8
CLICKED = 0.1
"""Share of the answers of the open loops that a click follows."""
ECHO = "/bench.Echo/Call"
Way = Callable[[], Awaitable[Any]]


async def echo_server(port: int, answer_bytes: int) -> None:
    """Answers every call with so many bytes; says "ready" when it listens."""
    answer = os.urandom(answer_bytes)

    async def call(request: bytes, context: object) -> bytes:
        return answer

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return grpc.unary_unary_rpc_method_handler(call) if details.method == ECHO else None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Handler()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


class StoreRows:
    """Embedding rows of one slot as they lie in the store, with their sequence numbers."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self.rows: dict[tuple[str, str], tuple[np.ndarray[Any, Any], int]] = {}

    async def load(self, reader: MatrixReader, project: str, slot: str, kind: str, ids: Sequence[str]) -> None:
        """Read rows of `item` or `user`."""
        keys = KeyEncoder(project, (f"{kind}_id",)).batch(ids)
        wanted = Read(f"{kind}_row_{slot}", keys, packed=(("row", self._dim),))
        (found,) = await reader.read([wanted], timeout_s=5.0, now_us=time.time_ns() // 1000)
        for place, name in enumerate(ids):
            there = bool(found.packed_mask["row"][place])
            self.rows[kind, name] = (found.packed["row"][place], int(found.seq[place]) if there else 0)

    def items(self, ids: Sequence[str]) -> tuple[Any, Any]:
        """Rows and masks of items, as `encode` takes them."""
        return self._of("item", ids)

    def users(self, ids: Sequence[str]) -> tuple[Any, Any]:
        """The same of shoppers."""
        return self._of("user", ids)

    def seq(self, kind: str, name: str) -> int:
        """Sequence of a row, 0 = none."""
        return self.rows[kind, name][1]

    def _of(self, kind: str, ids: Sequence[str]) -> tuple[Any, Any]:
        rows = np.zeros((len(ids), self._dim), np.float32)
        masks = np.zeros(len(ids), np.float32)
        for place, name in enumerate(ids):
            row, seq = self.rows[kind, name]
            if seq:
                rows[place], masks[place] = row, 1
        return rows, masks


@dataclass
class Bench:
    """What all parts of the run share."""

    loop: Loop
    request: ranking_pb2.RankRequest
    stub: Any
    reader: MatrixReader
    release: Release
    model: OnnxModel
    project: str

    async def rank(self) -> ranking_pb2.RankingResponse:
        """One call of the gateway."""
        return await self.stub.Rank(self.request, timeout=5.0)

    async def encoded(self, impression: events_pb2.Impression) -> tuple[Arrays, bool]:
        """Inputs [1, n, ...] of an as-served impression; False when a row has moved on since."""
        names = {"item": [i.item_id for i in impression.items] + [h.item_id for h in impression.history]}
        names["user"] = [impression.user_id]
        rows = StoreRows(self.release.spec.row_dim)
        for kind, ids in names.items():
            await rows.load(self.reader, self.project, impression.slot, kind, sorted(set(ids)))
        served = [("item", i.item_id, i.row_seq) for i in (*impression.items, *impression.history)]
        served.append(("user", impression.user_id, impression.user_row_seq))
        same = all(rows.seq(kind, name) == seq for kind, name, seq in served)
        return encode([impression], self.release.spec, rows), same


def pad(arrays: Arrays, bench: Bench) -> Arrays:
    """The same with as many places as the gateway gives."""
    spec, count = bench.release.spec, arrays["mask"].shape[1]
    out = zeros(spec, 1, padded(count))
    for name, values in arrays.items():
        if name in ("item", "content", "row", "row_mask", "mask"):
            out[name][:, :count] = values
        else:
            out[name][...] = values
    return out


async def prepare(loop: Loop) -> Bench:
    """Traffic until a release serves; then the shopper who asks: one with a history."""
    name = await loop.serving()
    shopper = loop.world.arrive()
    session = loop.world.begin_session(shopper)
    asking = shopper_message(shopper, session)
    now_us = time.time_ns() // 1000
    items = sorted(loop.world.items)[:CANDIDATES]
    events = [
        events_pb2.Event(
            event_id=f"rank-{k}-{now_us}",
            kind=events_pb2.EVENT_KIND_VIEW,
            user_id=asking.user_id,
            session_id=session,
            item_id=item,
            event_time_us=now_us - (20 - k) * 5_000_000,
        )
        for k, item in enumerate(items[:20])
    ]
    async with loop.calling() as api:
        await api.track(events)
    await loop.follower.caught_up(60.0)
    with loop.environment():
        project = load_plan(loop.feature_repo).project
    candidates = [ranking_pb2.Candidate(item_id=item, prior_rank=k + 1) for k, item in enumerate(items)]
    request = ranking_pb2.RankRequest(shopper=asking, candidates=candidates)
    channel = grpc.aio.insecure_channel(loop.plan.gateway)
    stub = ranking_pb2_grpc.RankingStub(channel)  # type: ignore[no-untyped-call]
    model = OnnxModel(loop.plan.store / "releases" / name / "model.onnx")
    reader = MatrixReader(Endpoint.from_url(loop.stack.redis.url))
    return Bench(loop, request, stub, reader, load_release(loop.plan.store, name), model, project)


async def check(bench: Bench, calls: int) -> tuple[dict[str, Any], Arrays, RowSlot]:
    """Compare served scores with onnxruntime's; also the inputs of the last impression, padded, and its rows' slot.

    The trainer stands still meanwhile, so that rows are those that were served.
    """
    await asyncio.sleep(1.0)  # what it had written is pushed; rows that move on all the same are told by their sequence
    responses = [await bench.rank() for _ in range(calls)]
    wanted = {impression_of(r.attribution_token): r for r in responses if r.release == bench.release.name}
    await asyncio.sleep(0.5)  # impressions are sent behind the answers
    differences: list[float] = []
    control: list[float] = []
    skipped, arrays, slot = 0, None, RowSlot()
    for impression in await asyncio.to_thread(bench.loop.impressions):
        response = wanted.get(impression.impression_id)
        if response is None:
            continue
        arrays, same = await bench.encoded(impression)
        slot = RowSlot(impression.slot, bench.release.spec.row_dim, impression.epoch)
        if not same:
            skipped += 1
            continue
        served = {result.item_id: result.score for result in response.results}
        found = bench.model.run(pad(arrays, bench))[0, : len(impression.items)] @ bench.release.weights
        shown = [
            (served[i.item_id], score) for i, score in zip(impression.items, found.tolist(), strict=True) if i.shown
        ]
        differences += [abs(ours - theirs) for ours, theirs in shown]
        control += [abs(one[0] - other[1]) for one, other in zip(shown, shown[::-1], strict=True)]
    if arrays is None:
        raise SystemExit("no impression of these calls lies on the log")
    if not np.isfinite(differences).all():
        raise SystemExit("a score is not a number")
    parity = {
        "scores": len(differences),
        "worst": max(differences, default=float("inf")),
        # The same comparison with the scores of other items: were it small too, the check could not fail.
        "worst_of_other_items": max(control, default=0.0),
        "tolerance": TOLERANCE,
        "impressions_skipped": skipped,
    }
    return parity, pad(arrays, bench), slot


async def closed_loop(ways: dict[str, Way], calls: int, rounds: int = 5) -> dict[str, list[list[float]]]:
    """Milliseconds of every way by round, one call at a time, in a new order each round."""
    chosen = random.Random(3)
    out: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in chosen.sample(sorted(ways), len(ways)):
            for _ in range(5):
                await ways[name]()
            taken = []
            for _ in range(max(1, calls // rounds)):
                began = time.perf_counter()
                await ways[name]()
                taken.append((time.perf_counter() - began) * 1e3)
            out[name].append(taken)
    return out


async def open_loop(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """Poisson arrivals: milliseconds from the intended time of sending; failed calls are counted and fail the run."""
    chosen, clicks = random.Random(11), set()

    async def call() -> None:
        response = await bench.rank()
        if chosen.random() < CLICKED:
            item = response.results[int(10 * chosen.random() ** 2)].item_id
            clicks.add(asyncio.create_task(api.track([click(bench.request.shopper, item, response.attribution_token)])))

    async with bench.loop.calling() as api:
        taken = await arrivals.poisson(call, rate, seconds)
        await asyncio.gather(*clicks)
    return percentiles(taken.ms) | {"asked_per_second": round(rate, 2), "failed": sum(taken.failed.values())}


def click(shopper: ranking_pb2.Shopper, item: str, token: str) -> events_pb2.Event:
    """A click on an answer, now."""
    return events_pb2.Event(
        event_id=uuid.uuid4().hex,
        kind=events_pb2.EVENT_KIND_CLICK,
        user_id=shopper.user_id,
        session_id=shopper.session_id,
        item_id=item,
        event_time_us=time.time_ns() // 1000,
        attribution_token=token,
        source="bench",
    )


def floors(bench: Bench, echo: Any, arrays: Arrays, slot: RowSlot, request: bytes) -> dict[str, Way]:
    """Each as a call without arguments."""
    store, scorer = ShopperStore(bench.reader), TritonScorer(bench.loop.stack.triton.grpc_address)
    with bench.loop.environment():
        plan = load_plan(bench.loop.feature_repo)
    schema = schemas.build(plan, [bench.release.spec])
    world, asking = bench.loop.world, bench.request.shopper
    categories = sorted({world.items[c.item_id].categories[0] for c in bench.request.candidates})

    async def read() -> None:
        now_us = time.time_ns() // 1000
        await store.read(schema, Ask(asking.user_id, asking.session_id, categories, (), slot, now_us), 5.0)

    async def onnxruntime() -> None:
        bench.model.run(arrays)

    return {
        "rank": bench.rank,
        "echo": lambda: echo(request),
        "read": read,
        "onnxruntime": onnxruntime,
        "triton": lambda: scorer.score(bench.release.name, arrays, 5.0),
    }


async def measure(loop: Loop, calls: int, seconds: float) -> dict[str, Any]:
    """Everything, in the order of the module's description."""
    bench = await prepare(loop)
    # Each release after this one would take it out of Triton while it is measured as a floor.
    loop.stack.kill("trainer", signal.SIGSTOP)
    parity, arrays, slot = await check(bench, 10)
    sizes = len(bench.request.SerializeToString()), len((await bench.rank()).SerializeToString())
    port = loop.stack.take_port()
    words = [sys.executable, "-m", "benchmarks.rank", "--echo", str(port), str(sizes[1])]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        await asyncio.to_thread(server.stdout.readline)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        ways = floors(bench, channel.unary_unary(ECHO), arrays, slot, os.urandom(sizes[0]))
        taken = await closed_loop(ways, calls)
        await channel.close()
    finally:
        server.kill()
        server.wait(10)
    closed = {name: percentiles([ms for part in parts for ms in part]) for name, parts in taken.items()}
    p50 = {name: found["p50"] for name, found in closed.items()}
    total = p50["echo"] + p50["read"] + p50["onnxruntime"] + max(0.0, p50["triton"] - p50["onnxruntime"])
    most = await arrivals.capacity(bench.rank, CALLERS, min(15.0, seconds))  # long enough to carry what is behind it
    loop.stack.kill("trainer", signal.SIGCONT)
    restarted = not loop.stack.supervisor.running("trainer")
    if restarted:
        loop.stack.restart("trainer")
    await loop.follower.drained()  # what came while it stood still is learned first: at work, not behind
    before = len(loop.audit())
    opened = {"trainer at work": await open_loop(bench, most / 2, seconds)}
    decisions = Counter(str(line["decision"]) for line in loop.audit()[before:])
    loop.stack.kill("trainer", signal.SIGSTOP)
    opened["trainer stopped"] = await open_loop(bench, most / 2, seconds)
    loop.stack.kill("trainer", signal.SIGCONT)
    return {
        "candidates": CANDIDATES,
        "bytes": {"request": sizes[0], "response": sizes[1]},
        "release": bench.release.name,
        "parity": parity,
        "closed_loop_ms": closed,
        "echo_p50_ms": spread([percentiles(part)["p50"] for part in taken["echo"]]),
        "triton_adds_ms": round(p50["triton"] - p50["onnxruntime"], 4),
        "sum_of_floors_ms": round(total, 4),
        "times_the_floors": round(p50["rank"] / total, 3),
        "capacity_qps": round(most, 1),
        "open_loop_ms": opened,
        "decisions_at_work": dict(decisions),
        "trainer_restarted": restarted,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def main() -> int:
    """Exit status 1 when scores differ."""
    if sys.argv[1:2] == ["--echo"]:
        asyncio.run(echo_server(int(sys.argv[2]), int(sys.argv[3])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="few calls: does it run?")
    parser.add_argument("--calls", type=int, default=400, help="of each way in the closed loop")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each open loop: two candidates")
    asked = parser.parse_args()
    if asked.quick:
        asked.calls, asked.seconds = 60, 4.0
    tools = fetch(default_folder(os.environ), Progress(show_present=False))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), tools, SETTINGS)
        loop.start()
        try:
            result = asyncio.run(measure(loop, asked.calls, asked.seconds))
            write_json(asked.out, result)
        finally:
            loop.stop()
    print(json.dumps(result, indent=1))
    parity = result["parity"]
    return 0 if parity["worst"] <= TOLERANCE < parity["worst_of_other_items"] else 1


if __name__ == "__main__":
    sys.exit(main())
