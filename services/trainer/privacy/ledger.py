"""What was spent, in a file that only grows: written before a round's noise is used, never taken back.

It lies beside the checkpoints, so that going back to an older one refunds nothing. A round is known by its number and
by a keyed digest of its sum: the same sum again (the replay after a kill) gets the same noise, which is the same
release and free; another sum under the same number is another release, with noise of its own, and is charged.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from services.common.errors import CorruptState
from services.trainer.files import sync_folder
from services.trainer.journal import line_of, whole_lines

NAME = "privacy.jsonl"


@dataclass(frozen=True)
class Entry:
    """One line: a round, or what a checkpoint knew of when the file had been lost."""

    number: int
    """Of the round, counted from 1; 0 for what was carried over."""
    digest: str
    """HMAC-SHA-256 of the round's sum under the arm's secret: without the secret it says nothing."""
    noise: float
    """Noise multiplier."""
    rounds: int = 1


class Ledger:
    """The file of one arm."""

    def __init__(self, path: Path) -> None:
        """Raises CorruptState when a line before the last is damaged: what follows it must not be forgotten."""
        self._path = path
        self._rounds: set[tuple[int, str]] = set()
        self.spent: Counter[float] = Counter()
        """Noise multiplier -> rounds."""
        self.newest = 0
        """The highest number of a round."""
        for line in _read(path):
            self._take(Entry(**json.loads(line[9:])))

    def knows(self, number: int, digest: str) -> bool:
        """True when exactly this was released before."""
        return (number, digest) in self._rounds

    def write(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns."""
        created = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(line_of(json.dumps(asdict(entry), separators=(",", ":")).encode()))
            file.flush()
            os.fsync(file.fileno())
        if created:
            sync_folder(self._path.parent)
        self._take(entry)

    def at_least(self, spent: Counter[float]) -> None:
        """Carry over what a checkpoint knows of and this file does not: the file was lost."""
        for noise, rounds in sorted(spent.items()):
            if rounds > self.spent[noise]:
                self.write(Entry(0, "", noise, rounds - self.spent[noise]))

    def _take(self, entry: Entry) -> None:
        self.spent[entry.noise] += entry.rounds
        self.newest = max(self.newest, entry.number)
        self._rounds.add((entry.number, entry.digest))


def _read(path: Path) -> list[bytes]:
    """Whole lines; a torn last one was never acted on and is cut off."""
    lines = whole_lines(path)
    if path.exists():
        whole = sum(map(len, lines))
        if b"\n" in path.read_bytes()[whole:]:
            raise CorruptState(f"{path.name}: line {len(lines) + 1} is damaged, and what was spent after it is unknown")
        os.truncate(path, whole)
    return lines
