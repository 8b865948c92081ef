"""What waits for days, on disk: impressions of the click window, and clicked rows after it.

A keyed file (SQLite, write-ahead log). Everything in it carries the place in the log that wrote it, and nothing is
changed in place, so the file can be read *as of* any place: a fold that starts again from an older snapshot sees what
there was then, and writes what follows a second time over the same keys with the same content. What is gone is only
marked with the place where it went; it is removed when no kept snapshot lies before that place.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import CorruptState, TemporaryError
from services.common.topics import INTERACTIONS

KEPT_SNAPSHOTS = 4
"""The three on disk, and the one that may be torn while it is written."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS impressions (
    id BLOB PRIMARY KEY, seq INTEGER NOT NULL, gone INTEGER, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS impressions_gone ON impressions (gone) WHERE gone IS NOT NULL;
CREATE TABLE IF NOT EXISTS clicked (
    id BLOB, item TEXT, seq INTEGER NOT NULL, gone INTEGER, deadline INTEGER NOT NULL, user INTEGER NOT NULL,
    time INTEGER NOT NULL, labels INTEGER NOT NULL, weight REAL NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (id, item)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS clicked_deadline ON clicked (deadline);
CREATE INDEX IF NOT EXISTS clicked_user ON clicked (user);
CREATE TABLE IF NOT EXISTS flips (
    id BLOB, item TEXT, seq INTEGER, bits INTEGER NOT NULL, PRIMARY KEY (id, item, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS snapshots (next_offset INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

_THERE = "seq <= ? AND (gone IS NULL OR gone >= ?)"
"""As of a place: written by then, and not gone before it."""


def spill_path(folder: Path, partition: int) -> Path:
    """The file of a partition."""
    return folder / f"{INTERACTIONS.name}-{partition}.sqlite"


@dataclass(frozen=True)
class Clicked:
    """A clicked row that waits for slower heads."""

    time_us: int
    """Of the impression."""
    deadline_us: int
    user: int
    """64-bit hash of the shopper's id."""
    labels: int
    weight: float
    payload: bytes
    """The impression with this item alone."""


class Spill:
    """The file of one partition. Raises CorruptState for what cannot be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit mode: begin and commit are ours, one transaction for each step of the fold.
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=30)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CorruptState(f"spill file: {error}") from error

    def resume(self, next_offset: int, impressions: int) -> None:
        """Go back to what there was at a snapshot with so many open impressions.

        Raises CorruptState when the file does not reach that place, or no longer holds it.
        """
        with self._transaction():
            place = self._place(next_offset)
            for table in ("impressions", "clicked", "flips"):
                self._db.execute(f"DELETE FROM {table} WHERE seq >= ?", (place,))
            for table in ("impressions", "clicked"):
                self._db.execute(f"UPDATE {table} SET gone = NULL WHERE gone >= ?", (place,))
            self._db.execute("DELETE FROM snapshots WHERE next_offset > ?", (next_offset,))
            (held,) = self._db.execute("SELECT count(*) FROM impressions WHERE gone IS NULL").fetchone()
            if held != impressions:
                raise CorruptState(f"spill file: {held} impressions, the snapshot has {impressions}")

    def clear(self) -> None:
        """Forget everything: the log is read from its start."""
        with self._transaction():
            for table in ("impressions", "clicked", "flips", "snapshots", "facts"):
                self._db.execute(f"DELETE FROM {table}")

    @contextmanager
    def step(self, end: Callable[[], int]) -> Iterator[None]:
        """One step of the fold: all of it is in the file or nothing. `end` tells the next offset when it is over."""
        with self._transaction():
            yield
            self._set_fact("next_offset", max(end(), self._fact("next_offset")))

    def put(self, seq: int, key: bytes, payload: bytes) -> None:
        """Keep an impression while it is open."""
        self._db.execute("INSERT OR REPLACE INTO impressions VALUES (?, ?, NULL, ?)", (key, seq, payload))

    def payload(self, key: bytes) -> bytes:
        """An open impression."""
        row = self._db.execute("SELECT payload FROM impressions WHERE id = ?", (key,)).fetchone()
        if row is None:
            raise CorruptState("spill file: an open impression is missing")
        data: bytes = row[0]
        return data

    def drop(self, seq: int, key: bytes) -> None:
        """An impression is closed or forgotten."""
        self._db.execute("UPDATE impressions SET gone = ? WHERE id = ?", (seq, key))

    def keep(self, seq: int, key: bytes, item: str, row: Clicked) -> None:
        """Keep a clicked row for the slower heads."""
        values = (key, item, seq, row.deadline_us, row.user, row.time_us, row.labels, row.weight, row.payload)
        self._db.execute("INSERT OR REPLACE INTO clicked VALUES (?, ?, ?, NULL, ?, ?, ?, ?, ?, ?)", values)

    def clicked(self, seq: int, key: bytes, item: str, clock_us: int) -> Clicked | None:
        """The row of an impression and item as of a place, its labels with all earlier flips; None when it is gone."""
        row = self._db.execute(
            "SELECT time, deadline, user, labels, weight, payload FROM clicked"
            f" WHERE {_THERE} AND id = ? AND item = ? AND deadline > ?",
            (seq, seq, key, item, clock_us),
        ).fetchone()
        if row is None:
            return None
        time_us, deadline_us, user, labels, weight, payload = row
        flips = self._db.execute("SELECT bits FROM flips WHERE id = ? AND item = ? AND seq < ?", (key, item, seq))
        for (bits,) in flips:
            labels |= bits
        return Clicked(time_us, deadline_us, user, labels, weight, payload)

    def flip(self, seq: int, key: bytes, item: str, bits: int) -> None:
        """Remember that heads of a kept row were flipped."""
        self._db.execute("INSERT OR REPLACE INTO flips VALUES (?, ?, ?, ?)", (key, item, seq, bits))

    def expire(self, seq: int, clock_us: int) -> int:
        """Let rows go whose last window has ended; returns how many."""
        sql = f"UPDATE clicked SET gone = ? WHERE {_THERE} AND deadline <= ?"
        return self._db.execute(sql, (seq, seq, seq, clock_us)).rowcount

    def evict(self, seq: int, clock_us: int, count: int) -> int:
        """Let the rows go whose last window ends first; returns how many. At most once for each place."""
        sql = (
            "UPDATE clicked SET gone = ? WHERE (id, item) IN (SELECT id, item FROM clicked"
            f" WHERE {_THERE} AND deadline > ? ORDER BY deadline, id, item LIMIT ?)"
        )
        return self._db.execute(sql, (seq, seq, seq, clock_us, count)).rowcount

    def forget(self, seq: int, user: int, before_us: int) -> int:
        """Let the rows of a shopper go that are older than a time; returns how many."""
        sql = f"UPDATE clicked SET gone = ? WHERE {_THERE} AND user = ? AND time < ?"
        return self._db.execute(sql, (seq, seq, seq, user, before_us)).rowcount

    def waiting(self, next_offset: int) -> Iterator[tuple[bytes, int, bytes]]:
        """Key, place and payload of each open impression as of a snapshot. Raises CorruptState when the file does not
        hold that place."""
        place = self._place(next_offset)
        yield from self._db.execute(
            "SELECT id, seq, payload FROM impressions WHERE seq < ? AND (gone IS NULL OR gone >= ?) ORDER BY seq",
            (place, place),
        )

    def kept(self, next_offset: int) -> Iterator[tuple[bytes, str, Clicked]]:
        """Key, item and row of each clicked row as of a snapshot, its labels with all flips. Raises CorruptState when
        the file does not hold that place."""
        place = self._place(next_offset)
        rows = self._db.execute(
            "SELECT id, item, time, deadline, user, labels, weight, payload FROM clicked"
            " WHERE seq < ? AND (gone IS NULL OR gone >= ?)",
            (place, place),
        )
        for key, item, time_us, deadline_us, user, labels, weight, payload in rows:
            flips = self._db.execute("SELECT bits FROM flips WHERE id = ? AND item = ? AND seq < ?", (key, item, place))
            for (bits,) in flips:
                labels |= bits
            yield key, item, Clicked(time_us, deadline_us, user, labels, weight, payload)

    def begin_at(self, next_offset: int) -> None:
        """Let a new file hold a place, with what was put into it as if before."""
        with self._transaction():
            self._set_fact("next_offset", next_offset)
            self._set_fact("floor", next_offset)
            self._db.execute("INSERT INTO snapshots VALUES (?)", (next_offset,))
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _place(self, next_offset: int) -> int:
        if not self._fact("floor") <= next_offset <= self._fact("next_offset"):
            raise CorruptState(f"spill file: does not hold offset {next_offset}")
        return next_offset << 20

    def snapshot(self, next_offset: int) -> None:
        """Make the file durable up to a snapshot, and remove what no kept snapshot needs."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO snapshots VALUES (?)", (next_offset,))
            kept = self._db.execute("SELECT next_offset FROM snapshots ORDER BY next_offset DESC").fetchall()
            if len(kept) >= KEPT_SNAPSHOTS:
                self._purge(kept[KEPT_SNAPSHOTS - 1][0])
            self._set_fact("next_offset", max(next_offset, self._fact("next_offset")))
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def holds(self) -> dict[str, int]:
        """Entries by table, gone ones that are not removed yet included."""
        tables = ("impressions", "clicked", "flips")
        return {table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

    def size_bytes(self) -> int:
        """Bytes of the file with its write-ahead log; 0 in memory."""
        if self._path is None:
            return 0
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._undo()
            raise TemporaryError(f"spill file: {error}") from error
        except sqlite3.DatabaseError as error:
            self._undo()
            raise CorruptState(f"spill file: {error}") from error
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _purge(self, floor: int) -> None:
        place = floor << 20
        self._db.execute("DELETE FROM impressions WHERE gone < ?", (place,))
        gone = self._db.execute("DELETE FROM clicked WHERE gone < ? RETURNING id, item", (place,)).fetchall()
        self._db.executemany("DELETE FROM flips WHERE id = ? AND item = ?", gone)
        self._db.execute("DELETE FROM snapshots WHERE next_offset < ?", (floor,))
        self._set_fact("floor", floor)

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row is not None else 0

    def _set_fact(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def open_spill(path: Path, next_offset: int | None, impressions: int) -> tuple[Spill, bool]:
    """The file as of a snapshot, and whether it fits it; one that does not is emptied, for a start from offset 0.

    `next_offset` is None where there is no snapshot.
    """
    try:
        spill = Spill(path)
    except CorruptState:
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            file.unlink(missing_ok=True)
        spill = Spill(path)
    try:
        if next_offset is not None:
            spill.resume(next_offset, impressions)
            return spill, True
    except CorruptState:
        spill.clear()
        return spill, False
    spill.clear()
    return spill, True
