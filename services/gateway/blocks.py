"""The item table's files: records in two buffers each, an open-addressing index, a header and a layout.

A record has two buffers and a stamp: the writer fills the buffer that is not in use and then raises the stamp, so the
newest whole record lies in buffer `stamp & 1`; a reader that sees the stamp move while it copies copies again. Stamp
0 = never written. (Loads and stores keep their order on x86-64 and the copies are single numpy calls.)

An item keeps its slot for ever. `layout.json` names the files; the header's generation grows when it changes.
"""

import json
import mmap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.content import CONTENT_DIM, MAX_TOKENS
from services.common.errors import CorruptState, TemporaryError

VERSION = 1
HEADER_BYTES = 16_384
COUNT, GENERATION, HEARTBEAT, CAUGHT_UP, ID_BYTES = range(5)
"""Places in the header: slots in use, layout generation, writer's last sign of life (us), first catch-up (us; 0 =
not yet), bytes of ids in use."""
POSITIONS = 16
"""From here on: next offset of each partition of the topic that is in the table, plus 1; 0 = nothing read."""

CATEGORIES = 4
"""Categories kept per item; the first is the main one."""

CATALOGUE = np.dtype(
    [
        ("live", "u1"),
        ("tokens", "u1"),  # number of content tokens
        ("categories", "<i4", CATEGORIES),  # codes; -1 = none
        ("price", "<f4"),  # NaN = none
        ("stock", "<i8"),  # -1 = not counted
        ("published_us", "<i8"),
        ("updated_us", "<i8"),
        ("token", "<u4", MAX_TOKENS),
        ("content", "<f4", CONTENT_DIM),
    ]
)

ID_PLACE = np.dtype([("at", "<u8"), ("size", "<u4")])
INDEX_ENTRY = np.dtype([("key", "<u8"), ("slot", "<u4")])
"""Slot + 1; 0 = empty place."""

RETRIES = 64


def values_dtype(width: int) -> np.dtype[Any]:
    """One record of a feature view or of embedding rows: `width` floats with their order and time."""
    return np.dtype(
        [("live", "u1"), ("epoch", "<u8"), ("seq", "<i8"), ("time_us", "<i8"), ("values", "<f4", max(1, width))]
    )


def packed_dtype(width: int) -> np.dtype[Any]:
    """One record of vectors of texts: `width` signed bytes, each times `scale`."""
    return np.dtype([("live", "u1"), ("epoch", "<u8"), ("seq", "<i8"), ("scale", "<f4"), ("values", "i1", width)])


GIVEN = "v."
"""How row slots of vectors that the shop gives begin."""

PACKED = ("row:ta", "row:tb", f"row:{GIVEN}")
"""How blocks of vectors of texts, and of those the shop gives, begin: wide, and as good in a byte per number."""


@dataclass
class BlockFile:
    """A block on disk. `ids`: feature ids by column (empty for rows); `width`: numbers per record."""

    file: str
    width: int
    ids: list[int] = field(default_factory=list)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of its records; `name`: as in the layout."""
        return packed_dtype(self.width) if name.startswith(PACKED) else values_dtype(self.width)


@dataclass
class Layout:
    """What `layout.json` says."""

    version: int = VERSION
    capacity: int = 0
    index: str = ""
    index_size: int = 0
    categories: list[str] = field(default_factory=list)
    blocks: dict[str, BlockFile] = field(default_factory=dict)
    """`view:<name>` and `row:<slot>`."""

    def to_json(self) -> str:
        """Text of `layout.json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Layout":
        """Raises CorruptState when the text is not a layout of this version."""
        try:
            data = json.loads(text)
            data["blocks"] = {name: BlockFile(**block) for name, block in data["blocks"].items()}
            layout = Layout(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptState(f"layout.json: {error}") from error
        if layout.version != VERSION:
            raise CorruptState(f"layout.json has version {layout.version}, expected {VERSION}")
        return layout


def map_file(path: Path, dtype: np.dtype[Any], count: int, writable: bool) -> NDArray[Any]:
    """A file as an array [count]; a writer makes it long enough first (sparse: only written pages take room)."""
    size = count * dtype.itemsize
    with path.open("a+b" if writable else "rb") as file:
        if writable and path.stat().st_size < size:
            file.truncate(size)
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        if not writable and path.stat().st_size < size:
            raise CorruptState(f"{path.name} is shorter than the layout says")
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=access), dtype)


class Block:
    """Records of one kind, by slot, in two buffers."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], capacity: int, writable: bool = False) -> None:
        self.dtype = dtype
        self._records = map_file(folder / f"{name}.bin", dtype, 2 * capacity, writable)
        self.stamps = map_file(folder / f"{name}.stamp", np.dtype("<u4"), capacity, writable)

    def put(self, slots: NDArray[np.int64], records: NDArray[Any]) -> None:
        """Write whole records, one per slot; slots are distinct. Only the one writer calls this."""
        stamps = self.stamps[slots] + 1
        self._records[2 * slots + (stamps & 1)] = records
        self.stamps[slots] = stamps

    def get(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Newest whole record of each slot (all slots >= 0); never a mixture of two writes.

        Raises TemporaryError when the same records change all the time, which no real writer does.
        """
        for _ in range(RETRIES):
            stamps = self.stamps.take(slots)
            records = self._records.take(2 * slots + (stamps & 1))
            if bool((self.stamps.take(slots) == stamps).all()):
                return records
        raise TemporaryError("the item table changes faster than it can be read")


def positions_in(header: NDArray[np.int64]) -> dict[int, int]:
    """Positions that a header holds."""
    stored = header[POSITIONS:]
    return {int(partition): int(stored[partition]) - 1 for partition in np.flatnonzero(stored)}


def probe(index: NDArray[Any], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Slots of keys in an open-addressing index (linear probing), -1 where absent.

    >>> index = np.zeros(8, INDEX_ENTRY); index[5] = (13, 3)
    >>> probe(index, np.array([13, 14], np.uint64))
    array([ 2, -1])
    """
    mask = np.uint64(len(index) - 1)
    out = np.full(len(keys), -1, np.int64)
    open_at = np.arange(len(keys))
    place = keys & mask
    while len(open_at):
        entry = index.take(place.astype(np.int64))
        hit = (entry["slot"] > 0) & (entry["key"] == keys[open_at])
        out[open_at[hit]] = entry["slot"][hit].astype(np.int64) - 1
        going = (entry["slot"] > 0) & ~hit
        open_at, place = open_at[going], (place[going] + np.uint64(1)) & mask
    return out


def fill(index: NDArray[Any], keys: NDArray[np.uint64], slots: NDArray[np.int64]) -> None:
    """Insert new keys; the slot is written last, so a reader never follows half an entry."""
    mask = len(index) - 1
    taken = index["slot"]
    for key, slot in zip(keys.tolist(), slots.tolist(), strict=True):
        place = key & mask
        while taken[place]:
            place = (place + 1) & mask
        index["key"][place] = key
        taken[place] = slot + 1
