"""Encoders and rerankers together: what the publisher of `main` does for texts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.publisher.audit import Audit
from services.publisher.encoders.book import TextKeeper
from services.publisher.encoders.desk import TextDesk
from services.publisher.encoders.encoders import Encoders
from services.publisher.encoders.rerankers import Rerankers
from services.publisher.encoders.store import EncoderStore
from services.publisher.encoders.watch import SearchWatch
from services.publisher.files import Disk
from services.publisher.fleet import Fleet
from services.publisher.golden import Expected
from services.publisher.judgments import RelevanceBounds, file_of
from services.publisher.kafka import Sender
from services.publisher.meters import Meters
from services.publisher.replay import Closed
from services.publisher.settings import PublisherSettings
from services.text import names
from services.text.folder import ENCODER, RERANKER


@dataclass(frozen=True)
class Reach:
    """What both kinds work with."""

    settings: PublisherSettings
    disk: Disk
    fence: Callable[[], None]
    sender: Sender
    fleet: Fleet
    searches: Callable[[int], list[Closed]]
    watch: SearchWatch
    """Of encoders: what shoppers find."""
    meters: Meters

    @property
    def bounds(self) -> RelevanceBounds:
        """How much worse a model may be."""
        return RelevanceBounds(self.settings.text_ndcg, self.settings.text_queries)

    def keeper(self, kind: str) -> TextKeeper:
        """Book of a kind."""
        return TextKeeper(names.home(self.settings.store, kind) / "book.json", self.disk)

    def store(self, kind: str) -> EncoderStore:
        """Folders of a kind."""
        settings = self.settings
        return EncoderStore(settings.store, settings.backend, self.disk, settings.instance_kind, kind)

    def audit(self, kind: str) -> Audit:
        """Record of a kind."""
        return Audit(names.home(self.settings.store, kind) / "audit.jsonl", self.fence)

    def desk(self, kind: str) -> TextDesk:
        """The world for a kind; both are judged by the same queries."""
        judged = file_of(self.settings.store)
        return TextDesk(self.settings.kafka, self.sender, self.searches, judged, self.meters, of=kind)


class TextModels:
    """One store's, in one thread; `wanted`, `status` and `rollback` for any."""

    def __init__(self, encoders: Encoders, rerankers: Rerankers) -> None:
        self.encoders, self.rerankers = encoders, rerankers

    @classmethod
    def of(cls, reach: Reach, term: Callable[[], int]) -> "TextModels":
        """Put both together. Raises CorruptState for a book that cannot be read."""
        of, to = ENCODER, RERANKER
        encoders = Encoders(
            reach.keeper(of), reach.store(of), reach.fleet, reach.audit(of), reach.desk(of), reach.bounds, reach.watch,
            term,
        )  # fmt: skip
        rerankers = Rerankers(
            reach.keeper(to), reach.store(to), reach.fleet, reach.audit(to), reach.desk(to), reach.bounds, term,
            encoders.encoding,
        )  # fmt: skip
        return cls(encoders, rerankers)

    def start(self) -> None:
        """Clear what a crash left, and read what there is."""
        self.encoders.start()
        self.rerankers.start()

    def step(self, now_us: int, judging: bool) -> None:
        """Do what is due."""
        try:
            self.encoders.step(now_us, judging)
        finally:
            self.rerankers.step(now_us, judging)

    def say_again(self) -> None:
        """Publish both routes once more: a record of one who does not lead any more lies over ours."""
        self.encoders.say_again()
        self.rerankers.say_again()

    def wanted(self) -> dict[str, Expected]:
        """What Triton servers must have."""
        return {**self.encoders.wanted(), **self.rerankers.wanted()}

    def status(self) -> dict[str, Any]:
        """For people."""
        return {**self.encoders.status(), "reranker": self.rerankers.status()}

    def rollback(self, actor: str, reason: str, reranker: bool = False) -> None:
        """Go back to the encoder, or the reranker, before."""
        (self.rerankers if reranker else self.encoders).rollback(actor, reason)

    def close(self) -> None:
        """Give connections back."""
        self.encoders.close()
        self.rerankers.close()
