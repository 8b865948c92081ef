"""What the publisher tells the trainer: arms/<arm>/control.json.

The lane in it is a fence: a trainer of another lineage must stop writing and start anew from `from_checkpoint`.
"""

import json
from pathlib import Path

from services.publisher.book import Book, State
from services.publisher.files import Disk

_NAMED = 50


def control_of(book: Book) -> dict[str, object]:
    """The content: the trainer's lane, where it starts, and what became of its exports, oldest first.

    The last accepted one is the champion, so one that was gone back to comes last.
    """
    refused = [e.release for e in book.of(State.REFUSED, State.ROLLED_BACK)]
    served = [e.release for e in book.entries if e.can_return]
    accepted = served[:_NAMED][::-1] + ([book.champion] if book.champion else [])
    return {
        "lineage": book.learning.lineage,
        "epoch": book.learning.epoch,
        "slot": book.learning.slot,
        "from_checkpoint": book.from_checkpoint,
        "freeze_learning": book.switches.learning,
        "accepted": accepted,
        "refused": refused[:_NAMED][::-1],
    }


def write(path: Path, book: Book, disk: Disk) -> None:
    """Replace the file when its content changes."""
    data = json.dumps(control_of(book), sort_keys=True).encode()
    if not path.exists() or path.read_bytes() != data:
        disk.replace(path, data)
