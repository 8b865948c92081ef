"""Vectors of items for one encoder: follows the catalogue on item_updates, and puts beside each text its vector.

What lies on the topic says what is still to do: a vector carries its encoder's epoch and the hash of its text. So a
restart, or another leader, goes on where the last one was, and what was made twice is the same.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
from freshrank.v1.models_pb2 import ItemRow
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.common.kafka import Record
from services.publisher.book import Lane
from services.publisher.encoders.book import TextLane
from services.publisher.table import Rows
from services.text.item import text_hash, text_of

Floats = NDArray[np.float32]

CHUNK = 64
"""Vectors that one step makes at most: a text that changes meanwhile waits for no more."""


class Log(Protocol):
    """item_updates from its beginning."""

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that was there at the beginning."""
        ...

    def poll(self) -> list[Record]:
        """What has come."""
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


Encode = Callable[[Sequence[str]], Floats]
"""Texts of items, the shortest first, to vectors [n, dim]."""
Send = Callable[[Lane, Rows], None]
"""Puts rows on the topic; a row of zeros takes one away."""


class Filler:
    """One lane's vectors. For one thread."""

    def __init__(self, lane: TextLane, dim: int, log: Log, encode: Encode, send: Send) -> None:
        self.lane, self._dim, self._log = lane, dim, log
        self._encode, self._send = encode, send
        self._wanted: dict[str, int] = {}
        """Hash of each item's text."""
        self._have: dict[str, int] = {}
        """Hash of the text that each vector on the topic is of."""
        self._todo: dict[str, str] = {}
        """Texts that have no vector yet, in the order they came."""
        self._gone: set[str] = set()
        self._compared = False
        """Whether texts and vectors of the beginning have been put side by side: until then every text is kept."""
        self.made = 0
        """Vectors made."""
        self.spoiled = False
        """A vector was overwritten by somebody else: only reading anew tells what is due."""

    @property
    def waiting(self) -> int:
        """Items whose vector is still to be made."""
        return len(self._todo)

    @property
    def items(self) -> int:
        """Items with a text."""
        return len(self._wanted)

    @property
    def whole(self) -> bool:
        """Every item has the vector of its text."""
        return self._compared and not self._todo and not self._gone

    def step(self, now_us: int) -> int:
        """Read what has come, and make some of the vectors that are due; returns how many.

        Raises TemporaryError when Triton or Kafka does not answer: what was due stays due.
        """
        self.read(self._log.poll())
        if not self._log.caught_up:
            return 0  # what is there may have its vector further on
        if not self._compared:
            self._compare()
        if self._gone:
            gone = sorted(self._gone)
            self._put(gone, np.zeros((len(gone), self._dim), np.float32), [0] * len(gone), now_us)
            for item in gone:
                self._gone.discard(item)
                self._have.pop(item, None)
        due = sorted(islice(self._todo.items(), CHUNK), key=lambda pair: len(pair[1]))
        if due:
            self._make(due, now_us)
        return len(due)

    def read(self, records: Iterable[Record]) -> None:
        """Take records of item_updates in."""
        mine = f"r|{self.lane.slot}|".encode()
        for _, _, _, key, value in records:
            if key is None:
                continue
            if key.startswith(b"c|"):
                self._entry(key[2:].decode(errors="replace"), value)
            elif key.startswith(mine):
                self._row(key[len(mine) :].decode(errors="replace"), value)

    def close(self) -> None:
        """Give the connection back."""
        self._log.close()

    def _entry(self, item: str, value: bytes | None) -> None:
        text = text_of(value)
        self._todo.pop(item, None)
        if not text:
            self._wanted.pop(item, None)
            if item in self._have:
                self._gone.add(item)
            return
        self._gone.discard(item)
        self._wanted[item] = wanted = text_hash(text)
        if not self._compared or self._have.get(item) != wanted:
            self._todo[item] = text

    def _row(self, item: str, value: bytes | None) -> None:
        row = _parsed(value)
        if row is not None and row.epoch == self.lane.epoch:
            self._have[item] = row.seq
            if self._compared and self._wanted.get(item) == row.seq:
                self._todo.pop(item, None)
        elif self._have.pop(item, None) is not None and row is not None and self._compared:
            self.spoiled = True

    def _compare(self) -> None:
        self._todo = {item: text for item, text in self._todo.items() if self._have.get(item) != self._wanted[item]}
        self._gone |= self._have.keys() - self._wanted.keys()
        self._compared = True

    def _make(self, due: Sequence[tuple[str, str]], now_us: int) -> None:
        items = [item for item, _ in due]
        vectors = self._encode([text for _, text in due])
        hashes = [self._wanted[item] for item in items]
        self._put(items, vectors, hashes, now_us)
        for item, wanted in zip(items, hashes, strict=True):
            self._have[item] = wanted
            del self._todo[item]
        self.made += len(items)

    def _put(self, items: Sequence[str], vectors: Floats, hashes: Sequence[int], now_us: int) -> None:
        times = np.full(len(items), now_us, np.int64)
        lane = Lane(epoch=self.lane.epoch, slot=self.lane.slot)
        self._send(lane, Rows(tuple(items), vectors, np.array(hashes, np.uint64), times))


def _parsed(value: bytes | None) -> ItemRow | None:
    try:
        return ItemRow.FromString(value) if value else None
    except DecodeError:
        return None
