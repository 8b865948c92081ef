"""Rows in Feast's online store: views `item_row_<slot>` and `user_row_<slot>`, one packed feature `row`.

Written in the order (epoch, sequence) of the delta a row is from, so writing anything again changes nothing.
"""

from collections.abc import Callable

import redis

from services.common.errors import PermanentError
from services.online.encode import Column, Kind
from services.online.epochs import Epochs, missing
from services.online.writer import Batch, MatrixWriter, Packer
from services.publisher.book import Lane
from services.publisher.table import Rows

FEATURE = "row"
_KINDS = {"item": "item_id", "user": "user_id"}


class FeastRows:
    """Both kinds of rows of any slot.

    `announce` sends item rows to those who keep tables of their own; it returns when they are acknowledged.
    """

    def __init__(
        self,
        client: redis.Redis,
        project: str,
        announce: Callable[[Lane, Rows], None],
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """`fence` raises NotOwner when nothing may be written any more."""
        self._client, self._project, self._announce, self._fence = client, project, announce, fence
        self._epochs = Epochs(client, project)
        self._writers: dict[str, MatrixWriter] = {}

    def open(self, lane: Lane) -> None:
        """Raise the epochs of the lane's two views: from then on lower epochs are fenced off. Raises TemporaryError."""
        for view in _views(lane):
            self._fence()
            self._epochs.raise_to(view, lane.epoch)

    def held(self, slots: str) -> int:
        """The highest epoch that rows of these slots were ever written in; 0 for slots nobody has used."""
        views = [view for slot in slots for view in _views(Lane(slot=slot))]
        return max((epoch or 0 for epoch in self._epochs.read(views).values()), default=0)

    def lost(self, lane: Lane) -> bool:
        """True when an epoch is missing: Redis has lost its data, or the slot was never opened."""
        return bool(missing(self._epochs.read(_views(lane))))

    def push(self, lane: Lane, items: Rows, users: Rows) -> bool:
        """Write and announce; False when an epoch was missing while it was written.

        Raises TemporaryError when Redis or Kafka failed, PermanentError when a later epoch owns the slot.
        """
        whole = [self._write("item", lane, items), self._write("user", lane, users)]
        if len(items):
            self._announce(lane, items)
        return all(whole)

    def restore(self, lane: Lane, items: Rows, users: Rows) -> None:
        """Write to the store alone. Raises TemporaryError."""
        self._write("item", lane, items)
        self._write("user", lane, users)

    def _write(self, kind: str, lane: Lane, rows: Rows) -> bool:
        if not len(rows):
            return True
        gone = ~rows.present
        batch = Batch(
            entities=[rows.ids],
            columns={FEATURE: Column(rows.rows, gone if gone.any() else None)},
            event_us=rows.times_us,
            epoch=lane.epoch,
            seqs=rows.seqs,
        )
        self._fence()
        result = self._writer(kind, lane).write(batch)
        if result.fenced:
            raise PermanentError(
                f"{kind} rows of slot {lane.slot} belong to a later epoch than {lane.epoch}:"
                " another publisher leads, or this model store is older than the online store"
            )
        return not result.epoch_missing

    def _writer(self, kind: str, lane: Lane) -> MatrixWriter:
        view = f"{kind}_row_{lane.slot}"
        if view not in self._writers:
            packer = Packer(self._project, view, [_KINDS[kind]], {FEATURE: Kind.FLOAT32_LIST})
            self._writers[view] = MatrixWriter(self._client, packer)
        return self._writers[view]


def _views(lane: Lane) -> list[str]:
    return [f"{kind}_row_{lane.slot}" for kind in _KINDS]
