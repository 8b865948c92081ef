"""What encoders and rerankers reach outside for: the catalogue's log, the judgments, and the topics they write."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from freshrank.v1.models_pb2 import TextRoute

from services.common.arms import RERANKER_KEY, TEXT_KEY
from services.common.broker import Address
from services.common.kafka import Record, Tail
from services.common.topics import ITEM_UPDATES
from services.publisher.book import Lane
from services.publisher.encoders.book import TextLane
from services.publisher.encoders.judge import MOST, from_clicks
from services.publisher.judgments import Judged, from_file
from services.publisher.kafka import Sender
from services.publisher.meters import Meters
from services.publisher.replay import Closed
from services.publisher.table import Rows
from services.text.folder import ENCODER, RERANKER
from services.text.item import text_of


class TopicLog:
    """item_updates from its beginning."""

    def __init__(self, bootstrap: Address) -> None:
        self._tail = Tail(bootstrap, ITEM_UPDATES.name)
        self._ends = self._tail.ends()

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that was there at the beginning."""
        return all(self._tail.positions[p] >= end for p, end in self._ends.items())

    def poll(self) -> list[Record]:
        """What has come."""
        return self._tail.poll(5_000, 0.0 if self.caught_up else 0.1)

    def close(self) -> None:
        """Leave the broker."""
        self._tail.close()


class Judges(Protocol):
    """What is done to the world for a kind of text model beside Triton and the disk; a `TextDesk`."""

    def route(self, route: TextRoute) -> None:
        """Send a route and wait for the acknowledgement. Raises TemporaryError."""

    def judged(self) -> Mapping[str, Sequence[Judged]]:
        """What models are judged by, by its kind."""
        ...

    def texts(self, items: set[str]) -> dict[str, str]:
        """Texts of items."""
        ...

    def decided(self, decision: str) -> None:
        """Count a decision."""


class TextDesk:
    """One store's, for encoders or for rerankers."""

    def __init__(
        self,
        bootstrap: Address,
        sender: Sender,
        searches: Callable[[int], list[Closed]],
        judged: Path,
        meters: Meters,
        codec: str = "int8",
        of: str = ENCODER,
    ) -> None:
        """`searches`: newest impressions that answered a query; `judged`: the file of judged queries; `of`: a kind."""
        self._bootstrap, self._sender, self._searches = bootstrap, sender, searches
        self._judged, self._meters, self._codec = judged, meters, codec
        self._of = of

    def log(self) -> TopicLog:
        """A reader of its own. Raises TemporaryError."""
        return TopicLog(self._bootstrap)

    def rows(self, lane: Lane, rows: Rows) -> None:
        """Send vectors, and wait for the acknowledgements. Raises TemporaryError."""
        self._sender.item_rows(lane, rows, self._codec)

    def route(self, route: TextRoute) -> None:
        """Send the record. Raises TemporaryError."""
        self._sender.text_route(route, RERANKER_KEY if self._of == RERANKER else TEXT_KEY)

    def judged(self) -> Mapping[str, Sequence[Judged]]:
        """Clicks, and the file's queries. Raises CorruptState for a file that cannot be read."""
        clicks = from_clicks(self._searches(20 * MOST))
        return {"clicks": clicks[:MOST], "judged": from_file(self._judged)[:MOST]}

    def texts(self, items: set[str]) -> dict[str, str]:
        """Of items in the catalogue; the topic is read once. Raises TemporaryError."""
        found: dict[str, str] = {}
        if not items:
            return found
        tail = Tail(self._bootstrap, ITEM_UPDATES.name)
        try:
            for _, _, _, key, value in tail.until(tail.ends()):
                if key is None or not key.startswith(b"c|"):
                    continue
                item = key[2:].decode(errors="replace")
                if item in items:
                    found[item] = text_of(value)
        finally:
            tail.close()
        return found

    def filled(self, lane: TextLane, made: int, waiting: int) -> None:
        """Count."""
        self._meters.vectors(made, waiting)

    def decided(self, decision: str) -> None:
        """Count."""
        self._meters.text_model(self._of, decision)

    def watched(self, figures: Mapping[str, float]) -> None:
        """Show."""
        self._meters.encoder_watched(figures)
