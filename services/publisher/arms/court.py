"""Where the referee sits: the labels it reads from Kafka, and who serves in which arm."""

from collections.abc import Callable, Mapping
from pathlib import Path

from services.common.arms import suffix
from services.common.broker import Address
from services.common.clock import Clock
from services.common.errors import CorruptState
from services.common.kafka import Record
from services.common.topics import EXAMPLES
from services.publisher import book as books
from services.publisher.arms.referee import Referee
from services.publisher.book import Keeper
from services.publisher.kafka import Reader


class Court:
    """Reads `examples` while a trial runs; one thread calls `step`. The publisher of arm `main` has it."""

    def __init__(
        self,
        referee: Referee,
        bootstrap: Address,
        keeper: Keeper,
        clock: Clock,
        tell: Callable[[str, Mapping[str, float]], None],
    ) -> None:
        """`tell`: told the figures of each challenger after each look."""
        self.referee, self._tell = referee, tell
        self._bootstrap, self._keeper, self._clock = bootstrap, keeper, clock
        self._labels: Reader | None = None
        self._trial = ""

    def step(self) -> None:
        """Tell gateways, take labels, decide. Raises TemporaryError: call again."""
        now_us, book = self._clock.now_us(), self.referee.book
        self.referee.sync(now_us)
        if not book.running:
            self.close()
            return
        if self._labels is None or self._trial != book.split.trial:
            self._open()
        assert self._labels is not None
        self._labels.step()
        self.referee.step(self._clock.now_us(), self._keeper.book.switches.releases, self._labels.positions)
        for standing in self.referee.book.standings:
            self._tell(standing.arm, standing.figures)

    def close(self) -> None:
        """Leave the broker."""
        if self._labels is not None:
            self._labels.close()
            self._labels = None

    def _open(self) -> None:
        self.close()
        counted = self.referee.book.counted
        fresh = not counted.positions
        back = 0 if fresh else None
        self._labels = Reader(self._bootstrap, EXAMPLES.name, counted.resume, self._label, back=back)
        self._trial = self.referee.book.split.trial
        if fresh:
            self.referee.found(self._labels.positions)

    def _label(self, record: Record) -> None:
        partition, offset, _, key, value = record
        self.referee.apply(partition, offset, value, key)


def state_folder(store: Path, arm: str) -> Path:
    """Where the publisher of an arm keeps what it knows."""
    return store / "snapshots" / f"publisher{suffix(arm)}"


def champions(store: Path) -> Mapping[str, str]:
    """The release that serves in each arm, as the arms' publishers have written it down; without one: empty."""
    found = {}
    for path in sorted(store.glob("snapshots/publisher*/book.json")):
        try:
            book = books.peek(path)
        except CorruptState:
            continue
        found[book.arm] = book.champion
    return found
