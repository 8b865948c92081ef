"""Raw ids of rows, packed: one byte string and two numbers per row, where Python strings would cost ten times that."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]


class IdArena:
    """Text per slot. A slot that is set again leaves its old bytes behind until the next restore.

    >>> arena = IdArena(10)
    >>> arena.set(np.array([3, 1]), ["a", "bc"])
    >>> arena.get(np.array([1, 3]))
    ['bc', 'a']
    """

    def __init__(self, slots: int) -> None:
        self._bytes = bytearray()
        self._starts = np.zeros(slots, np.int64)
        self._lengths = np.zeros(slots, np.int32)

    def set(self, slots: Slots, ids: Sequence[str]) -> None:
        """Give slots their ids."""
        encoded = [raw.encode() for raw in ids]
        self.set_packed(slots, b"".join(encoded), np.array([len(raw) for raw in encoded], np.int32))

    def get(self, slots: Slots) -> list[str]:
        """Ids of slots."""
        starts, ends = self._starts[slots], self._starts[slots] + self._lengths[slots]
        data = self._bytes
        return [data[a:b].decode() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def packed(self, slots: Slots) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """All bytes of the slots' ids and the length of each, for a checkpoint."""
        starts, lengths = self._starts[slots], self._lengths[slots]
        ends = np.cumsum(lengths, dtype=np.int64)
        places = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        return np.frombuffer(self._bytes, np.uint8)[places], lengths

    def set_packed(self, slots: Slots, data: bytes, lengths: NDArray[np.int32]) -> None:
        """The way back from `packed`."""
        ends = np.cumsum(lengths, dtype=np.int64)
        self._starts[slots] = len(self._bytes) + ends - lengths
        self._lengths[slots] = lengths
        self._bytes += data
