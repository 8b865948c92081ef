"""Search over a large catalogue through everything, beside the sum of measured floors; then how soon a change is found.

    python -m benchmarks.search.latency --out search.json [--quick] [--items 100000] [--calls 400] [--data homedepot]

Six services, Kafka, Redis and Triton run; simulated traffic makes a first release and is over, and the packaged text
encoder, with 8-bit weights, gives every item a vector. With --data titles and queries are those of the Home Depot
competition, else the simulated shop's, which are of few words. Then one known shopper searches, each time for something
else, so that no vector of a query is remembered; by words and by meaning 200 candidates are found and ranked, ten
answered. In turn, in the same run:

- repeated: searches for twenty things, whose vectors are remembered
- echo: a gRPC server in a process of its own answers as many bytes as the gateway does to as many
- index: the same queries asked of the gateway's own index of words in this process
- embed: vectors of such queries from Triton, by the gateway's own scorer
- nearest: 200 items by vectors of such queries, in this process
- read: what the gateway reads of this shopper and a query for these candidates, in one round trip
- read_without_query: the same of somebody who searches for nothing: what features of queries add to it
- onnxruntime: the released model in this process, the same inputs padded to 256
- triton: the same inputs by the gateway's own scorer; less onnxruntime it is what Triton adds

The trainer stands still meanwhile. Probabilities must equal those that onnxruntime gives for the impressions on the log
within 1e-4, and 95 % of 100 items that the index says are nearest must be as near as those found by comparing all. A
change is an item with a word of its own: the time from sending it to the first answer that has it. A change of meaning
is an item that has none of the query's words.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from freshrank.v1 import ranking_pb2

from benchmarks.machine import ROOT, percentiles, spread, write_json
from benchmarks.rank import ECHO, SETTINGS, TOLERANCE, Bench, Way, closed_loop, pad, prepare
from benchmarks.search.meaning import RECALL, Floats, Meaning, begin, real_titles
from benchmarks.search.meaning import visible as visible_by_meaning
from services.common.spec import Arrays
from services.common.tokens import impression_of
from services.demo.cache import Progress, default_folder
from services.demo.searching import SearchBox
from services.demo.tools import fetch
from services.demo.world import World
from services.gateway import schema as schemas
from services.gateway.candidates import RowSlot
from services.gateway.feast import Ask, ShopperStore
from services.gateway.search.index import IndexReader
from services.gateway.search.understand import Query, Synonyms, understand
from services.gateway.search.wish import Filter
from services.gateway.triton import TritonScorer
from services.online.registry import load_plan
from services.text.normal import query_key
from tests.pipeline.loop import Loop

QUERIES, REPEATED = 2_000, 20
ALL = Filter()
CANDIDATES = 200


@dataclass
class Searches:
    """One known shopper's searches of a running gateway."""

    bench: Bench
    index: IndexReader
    queries: list[str]
    meaning: Meaning
    vectors: list[Floats]
    """Of some queries."""
    _turn: Any = field(init=False)

    def __post_init__(self) -> None:
        self._turn = itertools.cycle(self.queries)

    def turn(self) -> str:
        """The next query."""
        return next(self._turn)

    async def search(self, query: str = "", keep: ranking_pb2.Filter | None = None) -> ranking_pb2.RankingResponse:
        """One call of the gateway."""
        query = query or self.turn()
        request = ranking_pb2.SearchRequest(shopper=self.bench.request.shopper, query=query, filter=keep)
        answer: ranking_pb2.RankingResponse = await self.bench.stub.Search(request, timeout=5.0)
        return answer

    def understood(self, text: str) -> Query:
        """A query as the gateway looks for it, without corrections."""
        return understand(text, lambda word: 1, lambda word: None, Synonyms([]))

    async def look_up(self) -> None:
        """The index alone."""
        wish = self.understood(self.turn()).wish
        self.index.search(wish, ALL, CANDIDATES, wish.most_words)


def words_folder(loop: Loop) -> Path:
    """Where the gateway's index lies."""
    (meta,) = loop.folder.rglob("*-words/meta.json")
    return meta.parent


async def check(searches: Searches, calls: int) -> tuple[dict[str, Any], Arrays, RowSlot]:
    """Compare served probabilities with onnxruntime's; also the inputs of the last impression and its rows' slot."""
    bench = searches.bench
    await asyncio.sleep(1.0)
    answers = [await searches.search() for _ in range(calls)]
    wanted = {impression_of(a.attribution_token): a for a in answers if a.release == bench.release.name}
    await asyncio.sleep(0.5)
    worst, control, scores, arrays, slot = 0.0, 0.0, 0, None, RowSlot()
    for impression in await asyncio.to_thread(bench.loop.impressions):
        answer = wanted.get(impression.impression_id)
        if answer is None:
            continue
        arrays, same = await bench.encoded(impression)
        slot = RowSlot(impression.slot, bench.release.spec.row_dim, impression.epoch)
        if not same:
            continue
        found = bench.model.run(pad(arrays, bench))[0, : len(impression.items), 0]
        served = np.array([result.objective_scores["click"] for result in answer.results])
        worst = max(worst, float(np.abs(served - found[: len(served)]).max()))
        control = max(control, float(np.abs(served - found[: len(served)][::-1]).max()))
        scores += len(served)
    if arrays is None or not scores:
        raise SystemExit("no impression of these calls lies on the log")
    parity = {"scores": scores, "worst": worst, "worst_of_other_items": control, "tolerance": TOLERANCE}
    return parity, arrays, slot


def of_all(arrays: Arrays, bench: Bench) -> Arrays:
    """Inputs of as many candidates as are ranked: those that were shown, over and over."""
    count = arrays["mask"].shape[1]
    chosen = np.arange(CANDIDATES) % count
    wide = {
        name: values[:, chosen] if name in ("item", "content", "row", "row_mask", "mask") else values
        for name, values in arrays.items()
    }
    return pad(wide, bench)


def floors(searches: Searches, echo: Any, arrays: Arrays, slot: RowSlot, request: bytes) -> dict[str, Way]:
    """Each as a call without arguments."""
    bench = searches.bench
    store, scorer = ShopperStore(bench.reader), TritonScorer(bench.loop.stack.triton.grpc_address)
    with bench.loop.environment():
        plan = load_plan(bench.loop.feature_repo)
    schema, asking = schemas.build(plan, [bench.release.spec]), bench.request.shopper
    categories = list(bench.loop.world.domain.categories)

    candidates = sorted(bench.loop.world.items)[:CANDIDATES]

    async def read(query: str) -> None:
        now_us = time.time_ns() // 1000
        asked = (query_key(query) or "", candidates)
        await store.read(schema, Ask(asking.user_id, asking.session_id, categories, (), slot, now_us, *asked), 5.0)

    async def onnxruntime() -> None:
        bench.model.run(arrays)

    turn, repeated = itertools.cycle(searches.queries), itertools.cycle(searches.queries[-REPEATED:])
    near, meaning = itertools.cycle(searches.vectors), searches.meaning

    async def nearest() -> None:
        meaning.vectors.nearest(meaning.table, next(near), CANDIDATES)

    return {
        "search": searches.search,
        "repeated": lambda: searches.search(next(repeated)),
        "echo": lambda: echo(request),
        "index": searches.look_up,
        "embed": lambda: meaning.embed(scorer, next(turn)),
        "nearest": nearest,
        "read": lambda: read(searches.turn()),
        "read_without_query": lambda: read(""),
        "onnxruntime": onnxruntime,
        "triton": lambda: scorer.score(bench.release.name, arrays, 5.0),
    }


async def visible(searches: Searches, changes: int) -> list[float]:
    """Milliseconds from sending an item to the first answer that has it, for items with words of their own."""
    taken = []
    async with searches.bench.loop.calling() as api:
        for number in range(changes):
            word = "".join(chr(97 + int(digit)) for digit in f"{number:04d}") + "zyx"
            began = time.perf_counter()
            await api.stock([ranking_pb2.Item(item_id=f"new-{number}", title=f"{word} thing", stock=1)])
            while not (await searches.search(f"{word}")).results:
                await asyncio.sleep(0.005)
            taken.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.05 * random.Random(number).random())
    return taken


async def measure(loop: Loop, calls: int, changes: int, queries: list[str]) -> dict[str, Any]:
    """Everything, in the order of the module's description."""
    bench = await prepare(loop)
    loop.stack.kill("trainer", signal.SIGSTOP)
    folder = words_folder(loop)
    index = IndexReader(folder, "english")
    deadline = time.monotonic() + 300
    while index.count < len(loop.world.items) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        index.refresh()
    meaning = await begin(loop)
    scorer = TritonScorer(loop.stack.triton.grpc_address)
    vectors = [await meaning.embed(scorer, query) for query in queries[-100:]]
    await scorer.close()
    searches = Searches(bench, index, queries, meaning, vectors)
    parity, shown, slot = await check(searches, 10)
    arrays = of_all(shown, bench)
    size = len((await searches.search()).SerializeToString())
    port = loop.stack.take_port()
    words = [sys.executable, "-m", "benchmarks.rank", "--echo", str(port), str(size)]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        await asyncio.to_thread(server.stdout.readline)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        taken = await closed_loop(floors(searches, channel.unary_unary(ECHO), arrays, slot, os.urandom(120)), calls)
        await channel.close()
    finally:
        server.kill()
        server.wait(10)
    closed = {name: percentiles([ms for part in parts for ms in part]) for name, parts in taken.items()}
    p50 = {name: found["p50"] for name, found in closed.items()}
    found_by = p50["index"] + p50["embed"] + p50["nearest"]
    total = p50["echo"] + found_by + p50["read"] + max(p50["triton"], p50["onnxruntime"])
    found_ms = await visible(searches, changes)
    meant_ms = await visible_by_meaning(loop, changes, searches.search)
    recall = await asyncio.to_thread(meaning.recall, vectors)
    loop.stack.kill("trainer", signal.SIGCONT)
    return {
        "items": index.count,
        "candidates": CANDIDATES,
        "parity": parity,
        "closed_loop_ms": closed,
        "echo_p50_ms": spread([percentiles(part)["p50"] for part in taken["echo"]]),
        "sum_of_floors_ms": round(total, 4),
        "times_the_floors": round(p50["search"] / total, 3),
        "visible_ms": percentiles(found_ms),
        "visible_by_meaning_ms": percentiles(meant_ms),
        "recall_at_100": round(recall, 4),
        "vectors_s": round(meaning.seconds, 1),
        "vectors_mib": round(sum(f.stat().st_size for f in meaning.vectors.folder.iterdir()) / 2**20, 1),
        "index_mib": round(sum(f.stat().st_size for f in folder.iterdir()) / 2**20, 1),
        "gateway_mib": gateway_memory(),
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def different(world: World) -> list[str]:
    """Queries of the simulated shop of which no two are the same."""
    box, chosen, items = SearchBox(world, 5), random.Random(5), sorted(world.items)
    made = (box.query(box.intent_of(chosen.choice(items)), attempt % 2) for attempt in range(20 * QUERIES))
    return list(dict.fromkeys(made))[:QUERIES]


def gateway_memory() -> dict[str, float]:
    """Resident memory of the gateway's processes that are children of this one's, by role."""
    out = {}
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "services.gateway" in words:
            out[words[-1] if words[-1] != "services.gateway" else "serve"] = round(process.memory_info().rss / 2**20, 1)
    return out


def main() -> int:
    """Exit status 1 when scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="few calls and items: does it run?")
    parser.add_argument("--data", type=Path, help="folder of the Home Depot competition's train.csv.zip")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=400, help="of each way")
    parser.add_argument("--changes", type=int, default=100)
    asked = parser.parse_args()
    if asked.quick:
        asked.items, asked.calls, asked.changes = 2_000, 60, 5
    tools = fetch(default_folder(os.environ), Progress(show_present=False))
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), tools, SETTINGS, items=asked.items)
        loop.start()
        queries = real_titles(loop, asked.data)[:QUERIES] if asked.data else different(loop.world)
        try:
            result = asyncio.run(measure(loop, asked.calls, asked.changes, queries))
            result["titles"] = "Home Depot's" if asked.data else "simulated"
            write_json(asked.out, result)
        finally:
            loop.stop()
    print(json.dumps(result, indent=1))
    parity = result["parity"]
    right = parity["worst"] <= TOLERANCE < parity["worst_of_other_items"] and result["recall_at_100"] >= RECALL
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
