"""What judging needs from all sides, gathered: the situation of the gate, and the probe of rows."""

import logging
from collections.abc import Callable, Sequence

from freshrank.v1.models_pb2 import Route

from services.common.encode import RowLookup
from services.publisher import control
from services.publisher.book import Book, Keeper
from services.publisher.checks import Verdict
from services.publisher.compression.attempt import Attempt, Compression, attempt
from services.publisher.examine import Situation, examine
from services.publisher.files import Disk
from services.publisher.gate import GateBounds
from services.publisher.history import RowHistory
from services.publisher.intake import Intake
from services.publisher.judgments import Judged
from services.publisher.manifest import Manifest
from services.publisher.meters import Meters
from services.publisher.onnx_file import FileBounds
from services.publisher.scores import Difference, log_loss, loss_difference
from services.publisher.shelf import Shelf
from services.publisher.store import ReleaseStore

logger = logging.getLogger(__name__)

_PROBED = 32
"""Impressions below which a probe of rows says nothing."""


class Desk:
    """The releases' way to the outside (`release.Outside`), and the pump's probe."""

    def __init__(
        self,
        keeper: Keeper,
        store: ReleaseStore,
        shelf: Shelf,
        history: RowHistory,
        intake: Intake,
        publish: Callable[[Route], None],
        meters: Meters,
        seconds: Callable[[], float],
        bounds: GateBounds,
        probed: int,
        compression: Compression | None = None,
        disk: Disk | None = None,
        judged: Callable[[], Sequence[Judged]] = tuple,
    ) -> None:
        """`seconds`: a clock for durations; `probed`: candidates of a row probe, 0 = none; `judged`: judgments."""
        self._keeper, self._store, self._shelf = keeper, store, shelf
        self._history, self._intake = history, intake
        self._publish, self._meters, self._seconds, self._bounds = publish, meters, seconds, bounds
        self._probed, self._compression = probed, compression
        self._disk, self._judged = disk or Disk(), judged
        self.rows: RowLookup | None = None
        """The rows that are in the store."""

    def judge(self, manifest: Manifest, row_seq: int) -> Verdict:
        """Put a candidate through every check of the gate."""
        began = self._seconds()
        book = self._keeper.book
        assert self.rows is not None
        champion = self._shelf.get(book.champion) if book.champion else None
        # Figures against a champion need impressions that it has scored and that have closed since.
        comparable = self._intake.final_since(champion.manifest.learned_up_to_us if champion else 0)
        now = Situation(
            champion=champion,
            replay=self._intake.snapshot(),
            rows=self.rows,
            pushed_seq=book.pushed_seq,
            rows_time_us=book.pushed_time_us,
            young=comparable < 2 * self._bounds.learner_impressions,
            known=frozenset(name for name in (book.champion, book.previous) if name),
            judged=self._judged,
        )
        folder = self._store.exports / manifest.release
        found = examine(manifest, row_seq, folder, now, self._bounds, FileBounds())
        self._meters.examined(found, self._seconds() - began)
        return found

    def compress(self, manifest: Manifest) -> Attempt | None:
        """Try the plan on a candidate and judge what came out."""
        if self._compression is None or not self._compression.steps:
            return None
        assert self.rows is not None
        folder, replay = self._store.exports / manifest.release, self._intake.snapshot()
        began = self._seconds()
        found = attempt(folder, manifest, self._compression, replay, self.rows, FileBounds())
        self._meters.compressed(found.verdict, self._seconds() - began)
        return found

    def row_seq(self, manifest: Manifest) -> int:
        """The last row delta that the candidate's weights have seen, by the positions of both."""
        return self._history.seq_of(manifest.epoch, manifest.positions)

    def publish(self, route: Route) -> None:
        """Send the route and wait for the acknowledgement."""
        self._publish(route)

    def tell_trainer(self, book: Book) -> None:
        """Keep control.json in step with the book."""
        control.write(self._store.exports.parent / "control.json", book, self._disk)

    def decided(self, decision: str, seconds: float) -> None:
        """Count a decision."""
        self._meters.decided(decision, seconds)

    def probe(self, new: RowLookup, old: RowLookup) -> tuple[Difference, float] | None:
        """The champion on the newest labelled impressions, with new rows against old ones."""
        champion = self._keeper.book.champion
        snapshot = self._intake.snapshot(self._probed) if self._probed and champion else None
        if snapshot is None or len(snapshot) < _PROBED:
            return None
        opened = self._shelf.get(champion)
        after, before = (snapshot.score([opened.model], opened.manifest.spec, rows)[0] for rows in (new, old))
        labels = before.labels[:, 0]
        one, other = after.scores[:, 0], before.scores[:, 0]
        return loss_difference(labels, one, other, before.groups), log_loss(labels, other)
