"""The item table as the workers read it: everything about items, one copy per pod, no round trip (design D10).

One process writes (`table_writer.py`), any number of workers read, without locks (`blocks.py`).
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import TemporaryError
from services.common.ids import keys_of
from services.gateway.blocks import (
    CATALOGUE,
    COUNT,
    GENERATION,
    HEADER_BYTES,
    ID_BYTES,
    ID_PLACE,
    INDEX_ENTRY,
    Block,
    Layout,
    map_file,
    positions_in,
    probe,
)


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
        self._blocks = {name: Block(self._folder, b.file, b.dtype(name), capacity) for name, b in layout.blocks.items()}
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
        """Raw ids of slots, which another reader of the table may have found."""
        self.refresh()
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

    def stamps(self, block: str, count: int) -> NDArray[np.uint32]:
        """Stamp of each of the first `count` records of `catalogue`, `view:<name>` or `row:<slot>`: what has moved."""
        found = self._catalogue if block == "catalogue" else self._blocks.get(block)
        return np.zeros(count, np.uint32) if found is None else found.stamps[:count].copy()

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

    def vectors(self, slot: str, slots: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors of texts [n, dim] of slot "ta" or "tb", and which are there [n]: those of exactly this epoch."""
        self.refresh()
        block = self._blocks.get(f"row:{slot}")
        if block is None:
            return np.zeros((len(slots), 0), np.float32), np.zeros(len(slots), np.bool_)
        records = block.get(np.maximum(slots, 0))
        present = (records["live"] == 1) & (records["epoch"] == epoch) & (slots >= 0)
        values = records["values"].astype(np.float32) * records["scale"][:, None]
        values[~present] = 0
        return values, present

    def newest_epoch(self, slot: str, slots: NDArray[np.int64]) -> int:
        """Of the vectors of texts that lie there; 0 without any."""
        block = self._blocks.get(f"row:{slot}")
        return int(block.get(slots)["epoch"].max(initial=0)) if block is not None else 0

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
