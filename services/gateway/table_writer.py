"""The one writer of the item table: records of `item_updates` in, mapped columns out.

Values of a key replace each other in the order of the topic. The files outlive the process (the kernel keeps the
pages), and the positions lie among them; so a restart goes on where it was. After a restart of the machine, or on
another log, the table is built anew from the compacted topic.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.models_pb2 import CatalogueItem, ItemFeatures, ItemRow
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from services.common.content import MAX_TOKENS, content_matrix
from services.common.errors import CorruptState
from services.common.ids import keys_of
from services.gateway import blocks
from services.gateway.blocks import Block, BlockFile, Layout, fill, map_file, probe
from services.gateway.table import ItemTable

FIRST_CAPACITY = 4096
SPARE_COLUMNS = 8
"""Columns left free when a view's block is made, for features that are added later."""

_FILES = ("*.bin", "*.stamp", "layout.json", "origin.json", "*.new")
"""What a table consists of: only this is removed, whatever else lies in the folder."""

Update = tuple[bytes, bytes | None]
"""Key and value of one record of item_updates."""

QUERY = b"q|"
"""Keys of records about queries, which the table has no use for."""


@dataclass(frozen=True)
class Origin:
    """What the positions of a saved table are valid for."""

    log: str
    """Identity of the Kafka cluster and topic."""
    boot: str
    """The machine's boot: pages written before it may be lost."""


class TableWriter:
    """Owns the files of one folder; exactly one per folder."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        """Open the folder's table, or an empty one when it is of another origin or unreadable."""
        self._folder = folder
        if not _is_of(folder, origin):
            for path in (file for pattern in _FILES for file in folder.glob(pattern)):
                path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        self._header = map_file(folder / "header.bin", np.dtype("<i8"), blocks.HEADER_BYTES // 8, writable=True)
        self._header[blocks.CAUGHT_UP] = 0
        (folder / "ids.bin").touch()
        path = folder / "layout.json"
        self._layout = Layout.from_json(path.read_text()) if path.is_file() else Layout()
        self._grow(max(self._layout.capacity, FIRST_CAPACITY))
        _replace(folder / "origin.json", json.dumps({"version": blocks.VERSION, **vars(origin)}))
        self._slots: dict[str, int] = {}
        self.skipped = 0
        """Records that could not be read."""

    def apply(self, updates: Iterable[Update]) -> int:
        """Take over a batch; of one key the last wins. Returns the number of keys written."""
        groups: dict[str, dict[str, bytes | None]] = {}
        for key, value in updates:
            if key.startswith(QUERY):
                continue
            kind, _, item = _parsed(key)
            if item:
                groups.setdefault(kind, {})[item] = value
            else:
                self.skipped += 1
        for kind, values in groups.items():
            self._apply_group(kind, values)
        return sum(map(len, groups.values()))

    def alive(self, now_us: int, caught_up: bool) -> None:
        """Tell the readers that the writer lives, and whether it has read the topic to its end once."""
        self._header[blocks.HEARTBEAT] = now_us
        if caught_up and not self._header[blocks.CAUGHT_UP]:
            self._header[blocks.CAUGHT_UP] = now_us

    @property
    def positions(self) -> dict[int, int]:
        """Next offset of each partition that is not in the table yet."""
        return blocks.positions_in(self._header)

    def applied(self, positions: Mapping[int, int]) -> None:
        """Say up to where the topic is in the table; after `apply`."""
        for partition, offset in positions.items():
            self._header[blocks.POSITIONS + partition] = offset + 1

    def slot_of(self, item: str) -> int:
        """Slot of an item that was applied; -1 for any other."""
        return self._slots.get(item, -1)

    def reader(self) -> ItemTable:
        """A reader of the same files."""
        return ItemTable(self._folder)

    def _apply_group(self, kind: str, values: dict[str, bytes | None]) -> None:
        if kind == "catalogue":
            self._put_catalogue(values)
        elif kind.startswith("view:"):
            self._put_features(kind, values)
        else:
            self._put_rows(kind, values)

    def _put_catalogue(self, values: dict[str, bytes | None]) -> None:
        entries = self._decoded(CatalogueItem, values)
        names = {name for item in entries.values() if item for name in item.categories[: blocks.CATEGORIES]}
        self._add_categories(names)
        records = np.zeros(len(entries), blocks.CATALOGUE)
        records["categories"] = -1
        codes = self._codes
        for record, item in zip(records, entries.values(), strict=True):
            if item is None:
                continue
            record["live"] = 1
            record["price"], record["stock"] = item.price, item.stock
            record["published_us"], record["updated_us"] = item.published_us, item.updated_us
            place = [codes[name] for name in item.categories[: blocks.CATEGORIES]]
            record["categories"][: len(place)] = place
            tokens = item.content[:MAX_TOKENS]
            record["tokens"] = len(tokens)
            record["token"][: len(tokens)] = tokens
        records["content"] = content_matrix([() if i is None else i.content[:MAX_TOKENS] for i in entries.values()])
        slots = self._slots_for(list(entries))
        self._catalogue.put(slots, records)

    def _put_features(self, kind: str, values: dict[str, bytes | None]) -> None:
        entries = self._decoded(ItemFeatures, values)
        slots = self._slots_for(list(entries))
        ids = {feature for item in entries.values() if item for feature in item.ids}
        block = self._block(kind, sorted(ids))
        column = {feature: place for place, feature in enumerate(self._layout.blocks[kind].ids)}
        records = np.zeros(len(entries), block.dtype)
        matrix = np.full((len(entries), records["values"].shape[1]), np.nan, np.float32)
        for at, item in enumerate(entries.values()):
            if item is None or len(item.ids) != len(item.values):
                continue
            records[at]["live"] = 1
            records[at]["seq"], records[at]["time_us"] = item.pos, item.time_us
            matrix[at, [column[feature] for feature in item.ids]] = item.values
        records["values"] = matrix
        block.put(slots, records)

    def _put_rows(self, kind: str, values: dict[str, bytes | None]) -> None:
        entries = self._decoded(ItemRow, values)
        slots = self._slots_for(list(entries))
        found = {name: _row(item) for name, item in entries.items() if item is not None}
        dim = max((len(row) for row in found.values()), default=0)
        block = self._row_block(kind, dim)
        width = self._layout.blocks[kind].width
        records = np.zeros(len(entries), block.dtype)
        for record, (name, item) in zip(records, entries.items(), strict=True):
            if item is not None and len(found[name]) == width:
                record["live"] = 1
                record["epoch"], record["seq"] = item.epoch, item.seq
                if kind.startswith(blocks.PACKED):
                    record["scale"], record["values"] = _packed(found[name])
                else:
                    record["time_us"], record["values"] = item.learned_up_to_us, found[name]
        block.put(slots, records)

    def _decoded(self, message: Any, values: dict[str, bytes | None]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for item, value in values.items():
            try:
                out[item] = None if value is None else message.FromString(value)
            except DecodeError:
                self.skipped += 1
        return out

    def _slots_for(self, ids: Sequence[str]) -> NDArray[np.int64]:
        new = [item for item in ids if item not in self._slots]
        if new:
            found = probe(self._index, keys_of(new))
            known = np.flatnonzero(found >= 0).tolist()
            self._slots.update({new[i]: int(found[i]) for i in known})
            self._insert([item for item in new if item not in self._slots])
        return np.array([self._slots[item] for item in ids], np.int64)

    def _insert(self, ids: Sequence[str]) -> None:
        first, count = int(self._header[blocks.COUNT]), len(ids)
        while first + count > self._layout.capacity:
            self._grow(2 * self._layout.capacity)
        data = [item.encode() for item in ids]
        at = int(self._header[blocks.ID_BYTES])
        with (self._folder / "ids.bin").open("r+b") as file:
            file.truncate(at)  # what a killed writer had begun
            file.seek(at)
            file.write(b"".join(data))
        sizes = np.array([len(d) for d in data], np.int64)
        slots = np.arange(first, first + count)
        self._places["size"][slots] = sizes
        self._places["at"][slots] = at + np.cumsum(sizes) - sizes
        self._header[blocks.ID_BYTES] = at + int(sizes.sum())
        self._header[blocks.COUNT] = first + count
        fill(self._index, keys_of(ids), slots)
        self._slots.update(zip(ids, slots.tolist(), strict=True))

    def _grow(self, capacity: int) -> None:
        layout, old = self._layout, self._layout.capacity
        layout.capacity = capacity
        self._places = map_file(self._folder / "places.bin", blocks.ID_PLACE, capacity, writable=True)
        self._catalogue = Block(self._folder, "catalogue", blocks.CATALOGUE, capacity, writable=True)
        self._blocks = {
            name: Block(self._folder, block.file, block.dtype(name), capacity, writable=True)
            for name, block in layout.blocks.items()
        }
        if capacity != old or not layout.index:
            self._new_index(4 * capacity)
        self._index = map_file(self._folder / layout.index, blocks.INDEX_ENTRY, layout.index_size, writable=True)
        self._publish()

    def _new_index(self, size: int) -> None:
        layout, old = self._layout, self._layout.index
        kept = map_file(self._folder / old, blocks.INDEX_ENTRY, layout.index_size, writable=False) if old else None
        layout.index, layout.index_size = f"index-{size}.bin", size
        (self._folder / layout.index).unlink(missing_ok=True)
        fresh = map_file(self._folder / layout.index, blocks.INDEX_ENTRY, size, writable=True)
        if kept is not None:
            used = kept[kept["slot"] > 0]
            fill(fresh, used["key"], used["slot"].astype(np.int64) - 1)

    def _block(self, name: str, ids: Sequence[int]) -> Block:
        """The block of a view, with a column for each of these features."""
        block = self._layout.blocks.get(name)
        new = [feature for feature in ids if block is None or feature not in block.ids]
        if block is None or len(block.ids) + len(new) > block.width:
            kept = [] if block is None else block.ids
            self._replace_block(name, [*kept, *new], len(kept) + len(new) + SPARE_COLUMNS)
        elif new:
            block.ids.extend(new)
            self._publish()
        return self._blocks[name]

    def _row_block(self, name: str, dim: int) -> Block:
        block = self._layout.blocks.get(name)
        if block is None or (dim and block.width != dim):
            self._replace_block(name, [], max(1, dim), keep=False)
        return self._blocks[name]

    def _replace_block(self, name: str, ids: list[int], width: int, keep: bool = True) -> None:
        old, before = self._blocks.get(name), self._layout.blocks.get(name)
        number = 0 if before is None else int(before.file.rsplit("-", 1)[1]) + 1
        stem = name.replace(":", "-").replace("/", "_")
        file = f"{stem}-{number}"
        for gone in (number, number - 2):  # a reader may be about to map the one before
            for suffix in (".bin", ".stamp"):
                (self._folder / f"{stem}-{gone}{suffix}").unlink(missing_ok=True)
        dtype = BlockFile(file, width).dtype(name)
        block = Block(self._folder, file, dtype, self._layout.capacity, writable=True)
        if old is not None and before is not None and keep:
            slots = np.flatnonzero(old.stamps[: int(self._header[blocks.COUNT])])
            records = np.zeros(len(slots), block.dtype)
            records["values"] = np.nan
            kept = old.get(slots)
            for column in ("live", "epoch", "seq", "time_us"):
                records[column] = kept[column]
            records["values"][:, : before.width] = kept["values"]
            block.put(slots, records)
        self._layout.blocks[name] = BlockFile(file, width, ids)
        self._blocks[name] = block
        self._publish()

    def _add_categories(self, names: set[str]) -> None:
        new = sorted(names - self._codes.keys())
        if new:
            self._layout.categories.extend(new)
            self._publish()

    def _publish(self) -> None:
        """Readers map again: the files come first, then the layout, then the generation."""
        self._codes = {name: code for code, name in enumerate(self._layout.categories)}
        _replace(self._folder / "layout.json", self._layout.to_json())
        self._header[blocks.GENERATION] += 1


def boot_id() -> str:
    """Identity of this machine's boot; "unknown" off Linux, where a table is kept for ever."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else "unknown"


def _parsed(key: bytes) -> tuple[str, str, str]:
    """Block name, name part and item of a key; the item is empty when the key is none of ours.

    >>> _parsed(b"f|item_stats|a|b")
    ('view:item_stats', 'item_stats', 'a|b')
    """
    kind, _, rest = key.decode(errors="replace").partition("|")
    if kind == "c":
        return "catalogue", "", rest
    name, _, item = rest.partition("|")
    prefix = {"f": "view:", "r": "row:"}.get(kind)
    return (prefix + name, name, item) if prefix and name else ("", "", "")


def _is_of(folder: Path, origin: Origin) -> bool:
    try:
        Layout.from_json((folder / "layout.json").read_text())
        stored = json.loads((folder / "origin.json").read_text())
    except (OSError, ValueError, CorruptState):
        return False
    return bool(stored == {"version": blocks.VERSION, **vars(origin)})


def _replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def _packed(row: NDArray[np.float32]) -> tuple[np.float32, NDArray[np.int8]]:
    """A row as bytes and what each is times; one that came so comes out as it was."""
    scale = np.float32(max(np.abs(row).max() / 127, np.finfo(np.float32).tiny))
    return scale, np.rint(row / scale).astype(np.int8)


def _row(item: ItemRow) -> NDArray[np.float32]:
    """The embedding, in whichever form it came."""
    if item.int8:
        return np.frombuffer(item.int8, np.int8).astype(np.float32) * np.float32(item.scale)
    if item.half:
        return np.frombuffer(item.half[: len(item.half) // 2 * 2], "<f2").astype(np.float32)
    return np.array(item.row, np.float32)
