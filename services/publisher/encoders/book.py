"""What is known of encoders, or of rerankers, across restarts: which serves, which is being given vectors, and what
became of the others.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from services.common.errors import CorruptState
from services.publisher.files import Disk

VERSION = 1
SLOTS = ("ta", "tb")
"""Row slots of vectors of texts: one serves, the other is being filled or was served before."""
_REMEMBERED = 50


@dataclass(frozen=True)
class TextLane:
    """An encoder with the slot and the epoch of its item vectors; a reranker without any."""

    encoder: str
    slot: str
    epoch: int


@dataclass(frozen=True)
class Decided:
    """What became of an encoder: serving, previous, filling, refused or retired."""

    encoder: str
    state: str
    reason: str
    decided_us: int
    checks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class TextBook:
    """Everything; a change is a new book."""

    serving: TextLane | None = None
    previous: TextLane | None = None
    filling: TextLane | None = None
    epoch: int = 0
    """The last one that was used."""
    switched_us: int = 0
    """When `serving` took the place of `previous`, while it is watched; 0 = it is not."""
    decided: tuple[Decided, ...] = ()
    """Newest first, one of each encoder."""

    @property
    def lanes(self) -> tuple[TextLane, ...]:
        """Lanes whose vectors are kept current."""
        return tuple(lane for lane in (self.serving, self.filling, self.previous) if lane is not None)

    def knows(self, encoder: str) -> bool:
        """Whether it was decided on."""
        return any(entry.encoder == encoder for entry in self.decided)

    def noted(self, entry: Decided) -> "TextBook":
        """With a decision."""
        rest = tuple(e for e in self.decided if e.encoder != entry.encoder)
        return replace(self, decided=(entry, *rest)[:_REMEMBERED])

    def begun(self, entry: Decided) -> "TextBook":
        """The encoder is given vectors from now on, in the slot that does not serve: what was in it is given up."""
        taken = self.serving.slot if self.serving else SLOTS[1]
        lane = TextLane(entry.encoder, SLOTS[1 - SLOTS.index(taken)], self.epoch + 1)
        book = self._given_up(entry.decided_us)
        return replace(book.noted(entry), filling=lane, epoch=lane.epoch)

    def switched(self, now_us: int, watched: bool = False) -> "TextBook":
        """The one that was being filled serves; the one that served before it stays as it is, to go back to."""
        assert self.filling is not None
        book = self.noted(Decided(self.filling.encoder, "serving", "every item has its vector", now_us))
        if self.serving is not None:
            book = book.noted(Decided(self.serving.encoder, "previous", "", now_us))
        since = now_us if watched and self.serving is not None else 0
        return replace(book, serving=self.filling, previous=self.serving, filling=None, switched_us=since)

    def succeeded(self, entry: Decided) -> "TextBook":
        """A reranker, which has no vectors, serves at once; the one that served stays, to go back to."""
        book = self._given_up(entry.decided_us, "there are two newer ones")
        if self.serving is not None:
            book = book.noted(Decided(self.serving.encoder, "previous", "", entry.decided_us))
        return replace(book.noted(entry), serving=TextLane(entry.encoder, "", 0), previous=self.serving)

    def returned(self, reason: str, now_us: int) -> "TextBook":
        """The previous one serves again; the one that served is not gone back to."""
        assert self.serving is not None
        assert self.previous is not None
        book = self.noted(Decided(self.serving.encoder, "rolled_back", reason, now_us))
        book = book.noted(Decided(self.previous.encoder, "serving", reason, now_us))
        return replace(book, serving=self.previous, previous=None, switched_us=0)

    def _given_up(self, now_us: int, reason: str = "its slot is used again") -> "TextBook":
        if self.previous is None:
            return self
        book = self.noted(Decided(self.previous.encoder, "retired", reason, now_us))
        return replace(book, previous=None)


class TextKeeper:
    """Holds the book and its file together; every change is on disk before it is seen."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Raises CorruptState for a book that cannot be read."""
        self._path, self._disk = path, disk
        self.book = read(path)

    def change(self, how: Callable[[TextBook], TextBook]) -> TextBook:
        """Apply a pure change, save, and return the new book."""
        book = how(self.book)
        if book != self.book:
            self._disk.replace(self._path, json.dumps({"version": VERSION, **asdict(book)}).encode())
            self.book = book
        return book


def read(path: Path) -> TextBook:
    """The book of a file, or a new one. Raises CorruptState."""
    if not path.exists():
        return TextBook()
    try:
        data = json.loads(path.read_bytes())
        if data.pop("version") != VERSION:
            raise ValueError("another version")
        serving, previous, filling = (_lane(data[name]) for name in ("serving", "previous", "filling"))
        decided = tuple(Decided(**{**entry, "checks": tuple(entry["checks"])}) for entry in data["decided"])
        return TextBook(serving, previous, filling, int(data["epoch"]), int(data.get("switched_us", 0)), decided)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise CorruptState(f"{path.name}: {type(error).__name__}: {error}") from error


def _lane(data: dict[str, Any] | None) -> TextLane | None:
    return None if data is None else TextLane(**data)
