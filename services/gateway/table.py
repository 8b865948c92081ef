"""The item table: everything about items in memory-mapped columns, one copy per pod (design D10).

One process writes (`table_writer.py`), any number of workers read, without locks. A record has two buffers and a
stamp: the writer fills the buffer that is not in use and then raises the stamp, so the newest whole record lies in
buffer `stamp & 1`; a reader that sees the stamp move while it copies copies again. Stamp 0 = never written.
(Loads and stores keep their order on x86-64 and the copies are single numpy calls.)

An item keeps its slot for ever. `layout.json` names the files; the header's generation grows when it changes.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.content import CONTENT_DIM, MAX_TOKENS
from services.common.errors import CorruptState, TemporaryError
from services.common.ids import keys_of

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


@dataclass
class BlockFile:
    """A block on disk. `ids`: feature ids by column (empty for rows); `width`: floats per record."""

    file: str
    width: int
    ids: list[int] = field(default_factory=list)


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
            if np.array_equal(self.stamps.take(slots), stamps):
                return records
        raise TemporaryError("the item table changes faster than it can be read")


@dataclass(frozen=True)
class Values:
    """Records of a view or of rows for some items."""

    values: NDArray[np.float32]
    """[n, width]; NaN (features) or 0 (rows) where not present."""
    present: NDArray[np.bool_]
    epoch: NDArray[np.uint64]
    seq: NDArray[np.int64]
    """Fold position of a view, sequence of a row; 0 where not present."""
    time_us: NDArray[np.int64]


class ItemTable:
    """A reader's view of the table; one per worker process, used from one thread at a time."""

    def __init__(self, folder: Path, cache_size: int = 500_000) -> None:
        """Raises TemporaryError while the writer has not made the table yet."""
        self._folder = folder
        self._cache: dict[str, int] = {}
        self._cache_size = cache_size
        if not (folder / "layout.json").is_file():
            raise TemporaryError("the item table is not there yet")
        self.header = map_file(folder / "header.bin", np.dtype("<i8"), HEADER_BYTES // 8, writable=False)
        self._generation = -1
        self.refresh()

    def refresh(self) -> None:
        """Map again what the writer has changed the layout of; cheap when nothing has."""
        generation = int(self.header[GENERATION])
        if generation == self._generation:
            return
        self.layout = layout = Layout.from_json((self._folder / "layout.json").read_text())
        capacity = layout.capacity
        self._index = map_file(self._folder / layout.index, INDEX_ENTRY, layout.index_size, writable=False)
        self._places = map_file(self._folder / "places.bin", ID_PLACE, capacity, writable=False)
        self._catalogue = Block(self._folder, "catalogue", CATALOGUE, capacity)
        self._blocks = {
            name: Block(self._folder, b.file, values_dtype(b.width), capacity) for name, b in layout.blocks.items()
        }
        self._ids_map = b""
        self.category_codes = {name: code for code, name in enumerate(layout.categories)}
        self._generation = generation

    @property
    def positions(self) -> dict[int, int]:
        """Next offset of each partition that is not in the table yet."""
        return positions_in(self.header)

    @property
    def count(self) -> int:
        """Slots in use."""
        return min(int(self.header[COUNT]), self.layout.capacity)

    def slots(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Slot of each id, shape [n]; -1 = the table has never seen the item."""
        cache = self._cache
        found = [cache.get(item, -1) for item in ids]
        slots = np.array(found, np.int64)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            self._look_up(ids, slots, missing)
        return slots

    def ids(self, slots: NDArray[np.int64]) -> list[str]:
        """Raw ids of slots."""
        places = self._places.take(slots)
        end = int((places["at"] + places["size"]).max(initial=0))
        if end > len(self._ids_map):
            self._ids_map = _bytes_of(self._folder / "ids.bin", int(self.header[ID_BYTES]))
        blob = self._ids_map
        pairs = zip(places["at"].tolist(), places["size"].tolist(), strict=True)
        return [blob[at : at + size].decode() for at, size in pairs]

    def catalogue(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Catalogue records (dtype CATALOGUE) of the slots; not live, without price or category, where slot is -1."""
        self.refresh()
        records = self._catalogue.get(np.maximum(slots, 0))
        records[(slots < 0) | (records["live"] == 0)] = _NO_ITEM
        return records

    def category_names(self, codes: NDArray[np.int32]) -> list[str]:
        """Name of each code; empty for -1."""
        if codes.max(initial=-1) >= len(self.layout.categories):
            self.refresh()
        names = [*self.layout.categories, ""]
        return [names[code] if code < len(names) else "" for code in codes.tolist()]

    def catalogue_stamps(self) -> NDArray[np.uint32]:
        """Stamp of each catalogue record [count]: what changed since the last look."""
        return self._catalogue.stamps[: self.count].copy()

    def row_stamps(self, slot: str) -> NDArray[np.uint32]:
        """Stamp of each row of a slot [count]."""
        block = self._blocks.get(f"row:{slot}")
        return np.zeros(self.count, np.uint32) if block is None else block.stamps[: self.count].copy()

    def columns(self, view: str) -> dict[int, int]:
        """Feature id -> column of `features(view, ...)`."""
        block = self.layout.blocks.get(f"view:{view}")
        return {} if block is None else {feature: place for place, feature in enumerate(block.ids)}

    def features(self, view: str, slots: NDArray[np.int64]) -> Values:
        """Streaming features of one item view, NaN where absent."""
        return self._values(f"view:{view}", slots, 0, np.nan)

    def rows(self, slot: str, slots: NDArray[np.int64], dim: int) -> Values:
        """Embedding rows [n, dim] of slot "a" or "b", zero where absent or of another length."""
        got = self._values(f"row:{slot}", slots, dim, 0.0)
        if got.values.shape[1] != dim:
            return _absent(len(slots), dim, 0.0)
        return got

    def _values(self, name: str, slots: NDArray[np.int64], dim: int, blank: float) -> Values:
        self.refresh()
        block = self._blocks.get(name)
        if block is None:
            return _absent(len(slots), dim, blank)
        records = block.get(np.maximum(slots, 0))
        present = (records["live"] == 1) & (slots >= 0)
        if not present.all():
            records["values"][~present] = blank
            for column in ("epoch", "seq", "time_us"):
                records[column][~present] = 0
        return Values(records["values"], present, records["epoch"], records["seq"], records["time_us"])

    def _look_up(self, ids: Sequence[str], slots: NDArray[np.int64], missing: NDArray[np.int64]) -> None:
        self.refresh()
        wanted = [ids[i] for i in missing.tolist()]
        found = probe(self._index, keys_of(wanted))
        found[found >= self.count] = -1
        there = np.flatnonzero(found >= 0)
        if len(self._cache) > self._cache_size:
            self._cache.clear()
        for place, stored in zip(there.tolist(), self.ids(found[there]), strict=True):
            if stored == wanted[place]:  # else another item of the same 64-bit key
                self._cache[stored] = int(found[place])
            else:
                found[place] = -1
        slots[missing] = found


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


_NO_ITEM = np.zeros((), CATALOGUE)
_NO_ITEM["price"] = np.nan
_NO_ITEM["stock"] = -1
_NO_ITEM["categories"] = -1


def _absent(n: int, width: int, blank: float) -> Values:
    return Values(
        np.full((n, width), blank, np.float32),
        np.zeros(n, np.bool_),
        np.zeros(n, np.uint64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )


def _bytes_of(path: Path, size: int) -> Any:
    if not size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
