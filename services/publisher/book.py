"""What the publisher knows across restarts: who serves, what is kept, where rows go. One JSON file, replaced whole."""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from services.common.errors import CorruptState, NotFound
from services.publisher.files import Disk
from services.publisher.manifest import Manifest, age_order

VERSION = 1
SUPERSEDED = "superseded"
"""Reason of a held release that a newer one replaced: it has never served."""
_REMEMBERED = 120
"""Entries kept of releases that served, and as many of those that did not: many refusals must not push a champion out.
More than are ever kept on disk."""


class State(StrEnum):
    """Where a release stands; names of freshrank.v1.ReleaseState."""

    CANDIDATE = "candidate"
    HELD = "held"
    CHAMPION = "champion"
    PREVIOUS = "previous"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"


@dataclass(frozen=True)
class Entry:
    """One release in the list."""

    release: str
    state: State
    parent: str
    created_us: int
    learned_up_to_us: int
    metrics: dict[str, float]
    lineage: int
    epoch: int
    slot: str
    row_seq: int
    checkpoint: str
    reason: str = ""
    decided_us: int = 0

    @property
    def can_return(self) -> bool:
        """True for one that has served and was replaced by a newer one, not taken back."""
        return self.state in (State.PREVIOUS, State.RETIRED) and self.reason != SUPERSEDED

    @staticmethod
    def of(manifest: Manifest, row_seq: int, state: State, reason: str, now_us: int) -> "Entry":
        """The entry of a candidate that was decided on; `row_seq`: the last delta that its weights have seen."""
        return Entry(
            release=manifest.release,
            state=state,
            parent=manifest.parent,
            created_us=manifest.created_us,
            learned_up_to_us=manifest.learned_up_to_us,
            metrics=manifest.metrics,
            lineage=manifest.lineage,
            epoch=manifest.epoch,
            slot=manifest.slot,
            row_seq=row_seq,
            checkpoint=manifest.checkpoint,
            reason=reason,
            decided_us=now_us,
        )


@dataclass(frozen=True)
class Lane:
    """One lineage's rows: the epoch that orders them and the slot they lie in."""

    lineage: int = 1
    epoch: int = 1
    slot: str = "a"

    def next(self, slots: str = "ab") -> "Lane":
        """The lane of a new lineage: higher epoch, the other slot.

        >>> Lane().next()
        Lane(lineage=2, epoch=2, slot='b')
        """
        return Lane(self.lineage + 1, self.epoch + 1, slots[0] if self.slot == slots[1] else slots[1])


@dataclass(frozen=True)
class Switches:
    """The one freeze switch, and who turned it."""

    rows: bool = False
    releases: bool = False
    learning: bool = False
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Undo:
    """A rollback under way: to which release, from which, and who asked."""

    target: str
    bad: str
    row_seq: int
    """Row sequence of the target, in the epoch it was learned in."""
    epoch: int
    actor: str
    reason: str


@dataclass(frozen=True)
class Book:
    """Everything; a change is a new book."""

    arm: str
    slots: str = "ab"
    """The two row slots of this arm: one serves, the other is filled by a rollback."""
    learning: Lane = Lane()
    """Where the trainer's deltas go."""
    serving: Lane = Lane()
    """What gateways read; another than `learning` only while a slot is being filled."""
    champion: str = ""
    previous: str = ""
    routed_us: int = 0
    """When the champion was routed to."""
    switches: Switches = Switches()
    pushed_seq: int = 0
    pushed_time_us: int = 0
    """Event time the pushed rows have learned up to."""
    stopped: str = ""
    """Why row pushes have stopped; empty when they run."""
    undo: Undo | None = None
    from_checkpoint: str = ""
    entries: tuple[Entry, ...] = ()
    """Newest first."""
    positions: dict[str, int] = field(default_factory=dict)
    """Next offsets by `<topic>-<partition>`."""
    term: int = 0
    """Of the publisher that leads: each one's is larger than those before it."""

    def entry(self, release: str) -> Entry:
        """The entry of a release. Raises NotFound."""
        for entry in self.entries:
            if entry.release == release:
                return entry
        raise NotFound(f"release {release!r}")

    def knows(self, release: str) -> bool:
        """True when the release has been decided on."""
        return any(entry.release == release for entry in self.entries)

    def of(self, *states: State) -> list[Entry]:
        """Entries in one of these states, newest first."""
        return [entry for entry in self.entries if entry.state in states]

    def with_entry(self, entry: Entry) -> "Book":
        """Add or replace an entry."""
        rest = tuple(e for e in self.entries if e.release != entry.release)
        ordered = sorted((entry, *rest), key=lambda e: age_order(e.release), reverse=True)
        gone = [e for e in ordered if e.state in (State.REFUSED, State.ROLLED_BACK)]
        kept = [e for e in ordered if e not in gone]
        forgotten = {e.release for e in (*gone[_REMEMBERED:], *kept[_REMEMBERED:])}
        return replace(self, entries=tuple(e for e in ordered if e.release not in forgotten))

    def moved(self, release: str, state: State, reason: str, now_us: int) -> "Book":
        """Put a known release into another state."""
        return self.with_entry(replace(self.entry(release), state=state, reason=reason, decided_us=now_us))


def promoted(book: Book, entry: Entry, reason: str, now_us: int) -> Book:
    """The release serves; the champion becomes the previous one, and that one and older held ones retire."""
    book = held(book, entry, now_us)
    if book.previous:
        book = book.moved(book.previous, State.RETIRED, "", now_us)
    if book.champion:
        book = book.moved(book.champion, State.PREVIOUS, "", now_us)
    book = book.moved(entry.release, State.CHAMPION, reason, now_us)
    return replace(book, champion=entry.release, previous=book.champion, routed_us=now_us)


def held(book: Book, entry: Entry, now_us: int) -> Book:
    """The release has passed and waits; one that waited before it makes room."""
    for older in book.of(State.HELD):
        if older.release != entry.release:
            book = book.moved(older.release, State.RETIRED, SUPERSEDED, now_us)
    return book.with_entry(replace(entry, state=State.HELD))


def rolling_back(book: Book, undo: Undo, now_us: int) -> Book:
    """Back to an older release: what came after it is rolled back, and a new lane is opened for its successor.

    Gateways are sent to the release at once, still on the rows of the old lane; they move when the new lane's slot
    is filled (`filled`).
    """
    for entry in book.of(State.CHAMPION, State.PREVIOUS, State.HELD, State.RETIRED):
        if age_order(entry.release) > age_order(undo.target):
            book = book.moved(entry.release, State.ROLLED_BACK, undo.reason, now_us)
    book = book.moved(undo.target, State.CHAMPION, undo.reason, now_us)
    lane = replace(book.learning.next(), slot=book.serving.next(book.slots).slot)
    return replace(
        book,
        champion=undo.target,
        previous="",
        routed_us=now_us,
        learning=lane,
        undo=undo,
        stopped="",
        from_checkpoint=book.entry(undo.target).checkpoint,
    )


def beyond(book: Book, epoch: int) -> Book:
    """A book that has pushed nothing yet, in slots that others have used: its epochs begin behind theirs.

    So what they left there counts as absent. A book that has pushed rows is left as it is.
    """
    if book.entries or book.pushed_seq or epoch < book.learning.epoch:
        return book
    lane = replace(book.learning, epoch=epoch + 1)
    return replace(book, learning=lane, serving=lane)


def filled(book: Book, time_us: int) -> Book:
    """The new lane's slot holds every row of the target: gateways can read it, and its deltas begin with 1."""
    return replace(book, serving=book.learning, undo=None, pushed_seq=0, pushed_time_us=time_us)


class Keeper:
    """Holds the book and its file together; every change is on disk before it is seen."""

    def __init__(self, path: Path, arm: str, disk: Disk | None = None, slots: str = "ab") -> None:
        """`slots`: the arm's two row slots. Raises CorruptState for a book that cannot be read or has other slots."""
        self._path, self._disk = path, disk or Disk()
        self._lock = threading.RLock()
        self._book = opened(path, arm, slots)

    @property
    def book(self) -> Book:
        """The book as it is."""
        return self._book

    def change(self, how: Callable[[Book], Book]) -> Book:
        """Apply a pure change, save, and return the new book."""
        with self._lock:
            book = how(self._book)
            if book != self._book:
                self._disk.replace(self._path, json.dumps({"version": VERSION, **asdict(book)}).encode())
                self._book = book
            return book


def opened(path: Path, arm: str, slots: str = "ab") -> Book:
    """The book of a file, or a new one. Raises CorruptState."""
    if not path.exists():
        first = Lane(slot=slots[0])
        return Book(arm, slots, learning=first, serving=first)
    found = peek(path)
    if (found.arm, found.slots) != (arm, slots):
        raise CorruptState(f"{path.name}: of arm {found.arm} with slots {found.slots}, not of {arm} with {slots}")
    return found


def peek(path: Path) -> Book:
    """The book of a file, whoever's it is. Raises CorruptState."""
    try:
        data = json.loads(path.read_bytes())
        if data.pop("version") != VERSION:
            raise ValueError("another version")
        return _book(data)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CorruptState(f"{path.name}: {type(error).__name__}: {error}") from error


def _book(data: dict[str, Any]) -> Book:
    known = {f.name for f in fields(Book)}
    plain = {k: v for k, v in data.items() if k in known}
    entries = tuple(Entry(**{**e, "state": State(e["state"])}) for e in data["entries"])
    return Book(
        **{
            **plain,
            "learning": Lane(**data["learning"]),
            "serving": Lane(**data["serving"]),
            "switches": Switches(**data["switches"]),
            "undo": Undo(**data["undo"]) if data["undo"] else None,
            "entries": entries,
        }
    )
