"""Vectors of items' texts as they lie on item_updates, and which items have rows that were made from them."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from freshrank.v1.models_pb2 import ItemRow
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.common.kafka import Record
from services.publisher.book import Lane
from services.publisher.encoders.book import TextLane
from services.publisher.encoders.filler import Log

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Lanes:
    """What a map leads from and to: one encoder's vectors, one lineage's rows. Either alone means nothing to it."""

    text: TextLane
    rows: Lane


class Texts:
    """Follows one encoder's vectors and one lineage's rows from the beginning of the topic; a byte per number."""

    def __init__(self, lanes: Lanes, log: Log) -> None:
        self.lanes, self._log = lanes, log
        self._lock = threading.Lock()
        self._place: dict[str, int] = {}
        self._values = np.zeros((0, 0), np.int8)
        self._scales = np.zeros(0, np.float32)
        self._free: list[int] = []
        self.content: set[str] = set()
        """Items whose row on the topic was made from their text alone: rows that have learned up to nothing."""

    def __len__(self) -> int:
        return len(self._place)

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that was there at the beginning."""
        return self._log.caught_up

    def step(self) -> set[str]:
        """Read what has come; returns the items whose vector has moved. Raises TemporaryError."""
        return self.read(self._log.poll())

    def read(self, records: Iterable[Record]) -> set[str]:
        """Take records of item_updates in."""
        texts, rows = (f"r|{slot}|".encode() for slot in (self.lanes.text.slot, self.lanes.rows.slot))
        moved = set()
        with self._lock:
            for _, _, _, key, value in records:
                if key is not None and key.startswith(texts):
                    moved.add(self._vector(key[len(texts) :].decode(errors="replace"), _parsed(value)))
                elif key is not None and key.startswith(rows):
                    self._row(key[len(rows) :].decode(errors="replace"), _parsed(value))
        return moved

    def ids(self) -> list[str]:
        """Items that have a vector."""
        with self._lock:
            return list(self._place)

    def take(self, ids: Sequence[str]) -> tuple[NDArray[np.int64], Floats]:
        """Which of the items have a vector, as places in `ids` [m], and the vectors [m, dim]."""
        with self._lock:
            places = np.array([self._place.get(item, -1) for item in ids], np.int64)
            known = np.flatnonzero(places >= 0)
            values = self._values[places[known]].astype(np.float32)
            return known, values * self._scales[places[known], None]

    def close(self) -> None:
        """Give the connection back."""
        self._log.close()

    def _vector(self, item: str, row: ItemRow | None) -> str:
        if row is not None and row.epoch == self.lanes.text.epoch and row.int8:
            self._put(item, np.frombuffer(row.int8, np.int8), row.scale)
        elif item in self._place:
            self._free.append(self._place.pop(item))
        return item

    def _row(self, item: str, row: ItemRow | None) -> None:
        if row is not None and row.epoch == self.lanes.rows.epoch and not row.learned_up_to_us:
            self.content.add(item)
        else:
            self.content.discard(item)

    def _put(self, item: str, values: NDArray[np.int8], scale: float) -> None:
        if not self._values.shape[1]:
            self._values = np.zeros((0, len(values)), np.int8)
        if self._values.shape[1] != len(values):
            return
        place = self._place.get(item)
        if place is None:
            place = self._free.pop() if self._free else len(self._place)
            self._place[item] = place
        if place >= len(self._values):
            room = max(1_024, len(self._values))
            self._values = np.concatenate([self._values, np.zeros((room, len(values)), np.int8)])
            self._scales = np.concatenate([self._scales, np.zeros(room, np.float32)])
        self._values[place], self._scales[place] = values, scale


def _parsed(value: bytes | None) -> ItemRow | None:
    try:
        return ItemRow.FromString(value) if value else None
    except DecodeError:
        return None
