"""What the releases' state machine is told by settings, and what it does to the world beside Triton and the disk."""

from dataclasses import dataclass
from typing import Protocol

from freshrank.v1.models_pb2 import Route

from services.publisher.book import Book
from services.publisher.checks import Verdict
from services.publisher.compression.attempt import Attempt
from services.publisher.manifest import Manifest


@dataclass(frozen=True)
class ReleasePolicy:
    """How releases move."""

    approval: str = "auto"
    """auto: what passes is routed; manual: it is held for a person."""
    keep: int = 5
    """Releases on disk, the serving ones included."""
    watch_share: float = 0.02
    drain_s: float = 10.0
    """From routing away to unloading: longer than a route takes to arrive and a request to finish."""
    rows_wait_s: float = 10.0
    """How long a candidate waits for its rows to be pushed before it is judged without."""


class Outside(Protocol):
    """What the state machine does to the world beside Triton and the disk."""

    def judge(self, manifest: Manifest, row_seq: int) -> Verdict:
        """Put an exported candidate through the gate."""
        ...

    def compress(self, manifest: Manifest) -> Attempt | None:
        """Try to make a candidate that has passed smaller; None when nobody asks for it."""
        ...

    def row_seq(self, manifest: Manifest) -> int:
        """The last row delta that the candidate's weights have seen."""
        ...

    def publish(self, route: Route) -> None:
        """Send a route and wait for the acknowledgement. Raises TemporaryError."""

    def tell_trainer(self, book: Book) -> None:
        """Write control.json."""

    def decided(self, decision: str, seconds: float) -> None:
        """Count a decision; seconds from export to it."""
