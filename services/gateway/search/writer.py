"""Keeps the index of words at the end of item_updates, beside the table's writer and in its process.

The index is committed a few times a second, the table with every batch; so the index has positions of its own, written
after each commit. After a restart reading goes on at the older of both: what is taken twice changes nothing.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from freshrank.v1.models_pb2 import CatalogueItem
from google.protobuf.message import DecodeError

from services.gateway.search.index import IndexWriter
from services.gateway.search.suggest import QueryBook
from services.gateway.table_writer import Origin, Update

VERSION = 2
COMMIT_S, CATCH_UP_S = 0.2, 2.0
"""Seconds between commits, each of which costs some tens of milliseconds: at the end of the log, and before it."""

STORE_S = 5.0
"""Seconds between positions that are written though no item has changed: a restart reads on from there."""

_CATALOGUE = b"c|"


class Indexer:
    """Owns the index of one folder."""

    def __init__(self, folder: Path, origin: Origin, language: str, keep: bool) -> None:
        """`keep` False begins anew, as does a folder of another log, boot, version or language."""
        self._path = folder / "positions.json"
        self._about = {"version": VERSION, "language": language, **vars(origin)}
        self.positions = self._stored() if keep else {}
        if not self.positions:
            shutil.rmtree(folder, ignore_errors=True)
        self._index, self._queries = IndexWriter(folder, language), QueryBook(folder)
        self._settled_s = 0.0
        if not self.positions:
            self._index.commit()

    def apply(self, updates: Iterable[Update], slot_of: Callable[[str], int]) -> None:
        """Take over what a batch says of items and of queries; of one item the last wins."""
        updates = list(updates)
        self._queries.apply(updates)
        last = {key: value for key, value in updates if key.startswith(_CATALOGUE)}
        for key, value in last.items():
            item = key[len(_CATALOGUE) :].decode(errors="replace")
            try:
                entry = CatalogueItem.FromString(value) if value else None
            except DecodeError:  # the table counts it
                entry = None
            if item:
                self._index.put(item, slot_of(item), entry)

    def settle(self, positions: Mapping[int, int], now_s: float, caught_up: bool) -> None:
        """Commit when it is time; `positions` of everything applied."""
        every_s = COMMIT_S if caught_up else CATCH_UP_S
        waited_s = now_s - self._settled_s
        if self._index.dirty and waited_s >= every_s:
            self._index.commit()
        elif self._index.dirty or waited_s < STORE_S or positions == self.positions:
            return
        self._settled_s = now_s
        if self._queries.settle(now_s):
            self._store(dict(positions))

    def _stored(self) -> dict[int, int]:
        try:
            stored = json.loads(self._path.read_text())
            if stored["about"] == self._about:
                return {int(partition): int(offset) for partition, offset in stored["positions"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def _store(self, positions: dict[int, int]) -> None:
        self.positions = positions
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"about": self._about, "positions": positions}))
        fresh.replace(self._path)


def earlier(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    """Where to go on so that neither misses anything: nothing for a partition that one of them does not know.

    >>> earlier({0: 5, 1: 7}, {0: 3})
    {0: 3}
    """
    return {partition: min(offset, second[partition]) for partition, offset in first.items() if partition in second}
