"""Vectors that the shop gives of its items, such as of their pictures: each is one more row of the item.

They go onto item_updates beside rows and vectors of texts, in a slot of their own by their name, so every gateway has
them and nothing else has to know what they are of. All of one name are compared with each other, and with nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from freshrank.v1.models_pb2 import ItemRow
from freshrank.v1.ranking_pb2 import ItemVector
from numpy.typing import NDArray

from services.common.errors import FreshrankError
from services.gateway.blocks import GIVEN
from services.gateway.search.vectors import AlikeByVectors, TextVectors
from services.gateway.table import ItemTable

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

EPOCH = 1
"""Of all of them: vectors that are made otherwise have another name."""
NEWEST = 5
"""Of the items that a shopper touched, those whose vectors say what is liked now."""
LOOK_S = 0.2


def slot_of(name: str) -> str:
    """The row slot of a name.

    >>> slot_of("image")
    'v.image'
    """
    return f"{GIVEN}{name}"


def row_of(vector: ItemVector, now_us: int) -> ItemRow | None:
    """What goes onto the log: the direction alone, in half the bytes; None takes it out."""
    if not vector.values:
        return None
    values = np.array(vector.values, np.float32)
    values /= np.linalg.norm(values.astype(np.float64))
    return ItemRow(half=values.astype("<f2").tobytes(), epoch=EPOCH, seq=now_us)


class Given:
    """The vectors of each name as requests use them."""

    def __init__(self, folder: Path, names: Iterable[str], table: ItemTable) -> None:
        """`folder`: where the indices of vectors lie."""
        self._table = table
        self._vectors = [TextVectors(folder, slot_of(name), EPOCH) for name in names]
        self.alike: Sequence[AlikeByVectors] = [AlikeByVectors(_always(one), table) for one in self._vectors]

    def likeness(self, entries: Ints, slots: Ints) -> Floats:
        """Cosines [n] of items with the mean of the newest of some others, of several names their mean; NaN where
        either has no vector. Both are places in the table; `entries`: newest first.
        """
        every = np.stack([self._cosines(one, entries[:NEWEST], slots) for one in self._vectors])
        known = ~np.isnan(every)
        count = known.sum(0)
        found = np.where(known, every, 0).sum(0) / np.maximum(count, 1)
        return np.where(count > 0, found, np.nan).astype(np.float32)

    def _cosines(self, vectors: TextVectors, entries: Ints, slots: Ints) -> Floats:
        values, present = self._table.vectors(vectors.slot, entries, EPOCH)
        mean = values[present].sum(0)
        length = float(np.linalg.norm(mean))
        if not length:
            return np.full(len(slots), np.nan, np.float32)
        return vectors.cosines(self._table, mean / np.float32(length), slots)

    def renew(self, table: ItemTable) -> None:
        """Look for what has moved; runs in a thread with a table of its own."""
        for vectors in self._vectors:
            vectors.renew(table)


def _always(vectors: TextVectors) -> Callable[[], TextVectors]:
    return lambda: vectors


async def watch_given(given: Given, table: ItemTable) -> None:
    """Look again and again."""
    while given.alike:
        try:
            await asyncio.to_thread(given.renew, table)
        except FreshrankError as error:
            logger.warning("vectors of items cannot be read", extra={"error": str(error)})
        await asyncio.sleep(LOOK_S)
    await asyncio.Event().wait()  # nothing to look for, for as long as the process lives
