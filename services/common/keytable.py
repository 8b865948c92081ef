"""A key for each shopper of an archive. To forget a shopper is to delete the key: docs/decisions/0015.

SQLite overwrites what is deleted (`secure_delete`) and keeps no log of changes beside the file. A key is of one
partition, because rows are in order only within one; it holds from the first row that was sealed with it.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from services.common.errors import CorruptState

FOLDER = "keys"
"""In the model store: a table for each archive, under the archive's own path. It may be another volume."""

COLUMNS = ["key", "sealed"]
"""Of a sealed file: the id of a key, and the group that it opens."""

Place = tuple[int, int]
"""Offset of a message, and place of a row in it."""

Key = tuple[bytes, bytes]
"""Its id, which is in the files, and itself, which is here alone."""

_WAIT_S = 30.0
"""Longest wait for another writer of the same table."""

_MAKE = """
CREATE TABLE IF NOT EXISTS keys (
    id BLOB PRIMARY KEY, shopper TEXT, partition INTEGER, since INTEGER, place INTEGER, key BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS shoppers ON keys (shopper, partition);
"""


def is_sealed(schema: Any) -> bool:
    """Whether a Parquet file of that Arrow schema holds groups, not rows."""
    return bool(schema.names == COLUMNS)


def table_of(store: Path, archive: Path) -> Path:
    """File of an archive's keys; `archive` lies in the store."""
    return store / FOLDER / archive.relative_to(store).with_suffix(".sqlite")


def writing(store: Path, archive: Path, wanted: bool) -> "KeyTable | None":
    """The keys of an archive that is sealed: as `wanted`, or as it is already. Raises CorruptState."""
    path = table_of(store, archive)
    return KeyTable(path) if wanted or path.exists() else None


@contextmanager
def reading(archive: Path) -> Iterator["KeyTable | None"]:
    """The keys of an archive, or of a folder in one, to read with; None where there are none: nobody can be read."""
    place = archive.absolute()
    tables = (table_of(store, folder) for folder in (place, *place.parents) for store in folder.parents)
    path = next((path for path in tables if path.is_file()), None)
    if path is None:
        yield None
        return
    with closing(KeyTable(path, writes=False)) as keys:
        yield keys


class KeyTable:
    """Keys of one archive."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        """Raises CorruptState when the file is no table of keys."""
        self.path = path
        with self._checked():
            if writes:
                path.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if writes else "ro"
            address = f"file:{quote(str(path.absolute()))}?mode={mode}"
            # Another thread may go on where one has ended.
            self._db = sqlite3.connect(address, _WAIT_S, isolation_level=None, check_same_thread=False, uri=True)
            if writes:
                self._db.execute("PRAGMA journal_mode = DELETE")
                self._db.execute("PRAGMA secure_delete = ON")
                self._db.execute("PRAGMA synchronous = EXTRA")  # a journal that came back would bring keys back
                self._db.executescript(_MAKE)

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def take(self, partition: int, firsts: Mapping[str, Place]) -> dict[str, Key]:
        """The key of each shopper; one is made, on disk before this returns, for who has none.

        `firsts`: place of each one's first row that is to be sealed.
        """
        with self._checked(), self._changing():
            return {shopper: self._taken(shopper, partition, place) for shopper, place in firsts.items()}

    def forget(self, shopper: str, partition: int, before: Place) -> int:
        """Delete the shopper's keys that began before a place of that partition, or on another; returns how many.

        A key that began after it is of a shopper who has come back: a log that is read again deletes it not.
        """
        with self._checked():
            ended = self._db.execute(
                "DELETE FROM keys WHERE shopper = ? AND (partition <> ? OR (since, place) < (?, ?))",
                (shopper, partition, *before),
            )
            return ended.rowcount

    def find(self, ids: Iterable[bytes]) -> dict[bytes, bytes]:
        """Keys by their ids; those that were deleted are left out."""
        with self._checked():
            found = ((id, self._one("SELECT key FROM keys WHERE id = ?", id)) for id in ids)
            return {id: row[0] for id, row in found if row is not None}

    def _taken(self, shopper: str, partition: int, place: Place) -> Key:
        row = self._one(
            "SELECT id, key, since, place FROM keys WHERE shopper = ? AND partition = ?", shopper, partition
        )
        if row is None:
            id, key = os.urandom(16), os.urandom(32)
            self._db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", (id, shopper, partition, *place, key))
            return id, key
        if place < (row[2], row[3]):
            self._db.execute("UPDATE keys SET since = ?, place = ? WHERE id = ?", (*place, row[0]))
        return row[0], row[1]

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CorruptState(f"table of keys {self.path}: {error}") from error
