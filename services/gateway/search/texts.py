"""The encoder in force with its item vectors, and vectors of queries: asked of Triton once, then remembered.

Encoder, slot and epoch come in one record of the topic routes and are replaced together, so a query is only ever
compared with vectors of the encoder that made its own. While an encoder is watched, the record names the one before as
well, which a share of shoppers keeps.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from freshrank.v1.models_pb2 import TextBefore, TextRoute
from numpy.typing import NDArray

from services.common.errors import FreshrankError
from services.common.spec import Arrays
from services.gateway.meters import Meters
from services.gateway.search.vectors import TextVectors
from services.gateway.table import ItemTable
from services.text import categories, names
from services.text import folder as folders
from services.text.categories import Categories
from services.text.folder import INPUTS, Tokenizer

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

REMEMBERED = 4_096
"""Vectors of queries kept; 6 MB at 384 numbers."""
LOOK_S = 0.1


class Embedder(Protocol):
    """Who turns tokens into vectors."""

    async def embed(self, encoder: str, arrays: Arrays, timeout_s: float) -> Floats:
        """Vectors [B, dim]."""
        ...


@dataclass(frozen=True)
class Text:
    """An encoder with the vectors it has made."""

    encoder: str
    tokens: Tokenizer
    vectors: TextVectors
    categories: Categories | None = None
    """Tells a query's category by its vector; None: this encoder has nothing that does."""

    def asked(self, vector: Floats) -> dict[str, float]:
        """Probability of each category that a query may ask for, the most probable first; empty = not told."""
        return self.categories.of(vector) if self.categories is not None else {}

    def is_of(self, lane: TextRoute | TextBefore) -> bool:
        """Whether it is what a record names."""
        return (self.encoder, self.vectors.slot, self.vectors.epoch) == (lane.encoder, lane.slot, lane.epoch)


@dataclass(frozen=True)
class InForce:
    """What searches are answered with."""

    now: Text
    before: Text | None = None
    """What some shoppers keep while `now` is watched."""
    share: float = 0.0
    """Of shoppers who keep it."""

    def of(self, user: str) -> Text:
        """The one for a shopper."""
        return self.before if self.before is not None and names.keeps_before(user, self.share) else self.now


class Texts:
    """What searches use beside words; without an encoder everything here is nothing."""

    def __init__(self, store: Path, folder: Path, embedder: Embedder, meters: Meters) -> None:
        """`store`: where encoders lie; `folder`: where the index of vectors does."""
        self._store, self._folder, self._embedder, self._meters = store, folder, embedder, meters
        self._route = TextRoute()
        self._seen: OrderedDict[tuple[str, str], Floats] = OrderedDict()
        self.in_force: InForce | None = None
        """None: there is no encoder, or it is being read."""

    @property
    def now(self) -> Text | None:
        """The newest in force."""
        return self.in_force.now if self.in_force is not None else None

    def of(self, user: str) -> Text | None:
        """The one that a shopper's searches are answered with."""
        return self.in_force.of(user) if self.in_force is not None else None

    def routed(self, route: TextRoute) -> None:
        """Another record; it takes effect when its encoder and vectors are read (`renew`)."""
        self._route = route

    def renew(self, table: ItemTable) -> None:
        """Read what is routed, and what has moved of its vectors; runs in a thread with a table of its own.

        Raises CorruptState, and what is in force stays, when the encoder's folder cannot be read yet.
        """
        route = self._route
        if not route.encoder:
            self.in_force = None
            return
        now, before = self._read(route, table), None
        if route.before.encoder:
            try:
                before = self._read(route.before, table)
            except FreshrankError as error:  # all have the newer one, then
                logger.warning("the encoder before cannot be read", extra={"error": str(error)})
        self.in_force = InForce(now, before, route.before.share)

    def _read(self, lane: TextRoute | TextBefore, table: ItemTable) -> Text:
        known = (self.in_force.now, self.in_force.before) if self.in_force is not None else ()
        for text in known:
            if text is not None and text.is_of(lane):
                text.vectors.renew(table)
                return text
        folder = names.kept(self._store) / lane.encoder
        vectors = TextVectors(self._folder, lane.slot, lane.epoch)
        told = categories.read(folder, folders.read(folder, check=False))
        made = Text(lane.encoder, Tokenizer.of(folder), vectors, told)
        made.vectors.renew(table)
        logger.info("text encoder", extra={"encoder": lane.encoder, "slot": lane.slot, "epoch": lane.epoch})
        return made

    def vectors(self) -> TextVectors | None:
        """Of items, by the encoder in force."""
        return self.now.vectors if self.now is not None else None

    async def query(self, text: Text, query: str, timeout_s: Callable[[], float]) -> Floats | None:
        """Vector of a query [dim]; None when it cannot be had in time: then words alone have to do."""
        key = (text.encoder, query)
        found = self._seen.get(key)
        if found is not None:
            self._seen.move_to_end(key)
            return found
        try:
            with self._meters.stage("text"):
                arrays = dict(zip(INPUTS, text.tokens.queries([query]), strict=True))
                vector: Floats = (await self._embedder.embed(text.encoder, arrays, timeout_s()))[0]
        except FreshrankError as error:
            self._meters.faults.labels("text", type(error).__name__).inc()
            return None
        self._seen[key] = vector
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return vector


async def watch_texts(texts: Texts, table: ItemTable) -> None:
    """Look for another encoder, and for vectors that have moved, again and again."""
    while True:
        try:
            await asyncio.to_thread(texts.renew, table)
        except FreshrankError as error:
            logger.warning("text encoder cannot be read", extra={"error": str(error)})
            await asyncio.sleep(1)
        await asyncio.sleep(LOOK_S)
