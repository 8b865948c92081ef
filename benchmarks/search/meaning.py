"""The part of meaning in Search's latency: an encoder that goes live, its vectors, what they find and how soon."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1 import ranking_pb2
from numpy.typing import NDArray

from services.demo import encoder
from services.demo.cache import Progress, default_folder
from services.gateway.search.vectors import TextVectors
from services.gateway.table import ItemTable
from services.gateway.triton import TritonScorer
from services.text.folder import INPUTS, Tokenizer
from tests.pipeline.loop import Loop

Floats = NDArray[np.float32]

NEAREST, RECALL = 100, 0.95
MEANT = "a couch for two in the living room"
SAYS = "loveseat sofa for small spaces"
"""A query and a title that have no word in common."""


@dataclass
class Meaning:
    """The encoder that serves, with its vectors as a worker sees them."""

    encoder: str
    tokens: Tokenizer
    vectors: TextVectors
    table: ItemTable
    seconds: float
    """From offering the encoder to its serving: checked, loaded, every item given a vector."""

    async def embed(self, scorer: TritonScorer, query: str) -> Floats:
        """A query's vector from Triton."""
        arrays = dict(zip(INPUTS, self.tokens.queries([query]), strict=True))
        found: Floats = (await scorer.embed(self.encoder, arrays, 5.0))[0]
        return found

    def recall(self, queries: list[Floats]) -> float:
        """Of as many of the nearest as are asked for, the share that is as near as the exactly nearest."""
        self.vectors.renew(self.table)
        slots = np.arange(self.table.count)
        values, present = self.table.vectors(self.vectors.slot, slots, self.vectors.epoch)
        shares = []
        for query in queries:
            cosines = np.where(present, values @ query, -2.0)
            least = np.partition(cosines, -NEAREST)[-NEAREST]
            found = self.vectors.nearest(self.table, query, NEAREST)[1]
            shares.append(np.count_nonzero(found >= least - 1e-6) / NEAREST)
        return float(np.mean(shares))


async def begin(loop: Loop) -> Meaning:
    """Offer the packaged encoder and wait until every item has its vector and the index has taken them in."""
    folder = encoder.provide(default_folder(os.environ), Progress(show_present=False))
    began = time.monotonic()
    name = encoder.offer(folder, loop.plan.store, time.time_ns() // 1000)
    while loop.follower.positions("gateway").get("encoder") != name:
        await asyncio.sleep(1.0)
        state: dict[str, Any] = loop.follower.positions("publisher").get("text") or {}
        waiting = (state.get("filling") or {}).get("waiting", 0)
        print(f"\r{time.monotonic() - began:6.0f} s, {waiting} items wait   ", end="", file=sys.stderr)
    seconds = time.monotonic() - began
    await asyncio.sleep(10)
    (header,) = loop.folder.rglob("table/header.bin")
    table, serving = ItemTable(header.parent), loop.follower.positions("publisher")["text"]["serving"]
    vectors = TextVectors(header.parent.with_name("table-vectors"), serving["slot"], serving["epoch"])
    vectors.renew(table)
    return Meaning(name, Tokenizer.of(folder), vectors, table, seconds)


async def visible(
    loop: Loop, changes: int, search: Callable[[str, ranking_pb2.Filter], Awaitable[ranking_pb2.RankingResponse]]
) -> list[float]:
    """Milliseconds from sending an item to the first answer that has it, for items found by what they mean alone.

    `search`: a query, and a category that only the item has, so that no other stands before it.
    """
    taken = []
    async with loop.calling() as api:
        for number in range(changes):
            item, began = f"meant-{number}", time.perf_counter()
            await api.stock([ranking_pb2.Item(item_id=item, title=SAYS, categories=[item], stock=1)])
            while not (await search(MEANT, ranking_pb2.Filter(categories=[item]))).results:
                await asyncio.sleep(0.005)
            taken.append((time.perf_counter() - began) * 1e3)
    return taken


def real_titles(loop: Loop, data: Path) -> list[str]:
    """Give the shop's items titles of real products, and return what people searched for; each title once, then again
    as packs of several.
    """
    from benchmarks.search.judged import read

    judged = read(data)
    titles = list(dict.fromkeys(judged.titles))
    for number, item in enumerate(loop.world.first_items):
        packs, place = divmod(number, len(titles))
        item.title = titles[place] + (f", pack of {packs + 1}" if packs else "")
    return list(dict.fromkeys(judged.queries))
