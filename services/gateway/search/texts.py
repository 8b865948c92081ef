"""The encoder in force with its item vectors, and vectors of queries: asked of Triton once, then remembered.

Encoder, slot and epoch come in one record of the topic routes and are replaced together, so a query is only ever
compared with vectors of the encoder that made its own.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from freshrank.v1.models_pb2 import TextRoute
from numpy.typing import NDArray

from services.common.errors import FreshrankError
from services.common.spec import Arrays
from services.gateway.meters import Meters
from services.gateway.search.vectors import TextVectors
from services.gateway.table import ItemTable
from services.text import names
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


class Texts:
    """What searches use beside words; without an encoder everything here is nothing."""

    def __init__(self, store: Path, folder: Path, embedder: Embedder, meters: Meters) -> None:
        """`store`: where encoders lie; `folder`: where the index of vectors does."""
        self._store, self._folder, self._embedder, self._meters = store, folder, embedder, meters
        self._route = TextRoute()
        self._seen: OrderedDict[tuple[str, str], Floats] = OrderedDict()
        self.now: Text | None = None
        """In force; None: there is none, or it is being read."""

    def routed(self, route: TextRoute) -> None:
        """Another record; it takes effect when its encoder and vectors are read (`renew`)."""
        self._route = route

    def renew(self, table: ItemTable) -> None:
        """Read the routed encoder, and what has moved of its vectors; runs in a thread with a table of its own.

        Raises CorruptState, and what is in force stays, when the encoder's folder cannot be read yet.
        """
        route, now = self._route, self.now
        if not route.encoder:
            self.now = None
            return
        if now is None or (now.encoder, now.vectors.slot, now.vectors.epoch) != (
            route.encoder,
            route.slot,
            route.epoch,
        ):
            tokens = Tokenizer.of(names.kept(self._store) / route.encoder)
            made = Text(route.encoder, tokens, TextVectors(self._folder, route.slot, route.epoch))
            made.vectors.renew(table)
            self.now = made
            logger.info("text encoder", extra={"encoder": route.encoder, "slot": route.slot, "epoch": route.epoch})
        else:
            now.vectors.renew(table)

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
