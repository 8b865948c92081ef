"""Rows from texts as the publisher runs them: what the pump writes to, and a study in a loop of its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from services.common.broker import Address
from services.common.errors import CorruptState
from services.publisher.audit import Audit
from services.publisher.book import Keeper, Lane
from services.publisher.cold.rows import Blend, ColdRows
from services.publisher.cold.study import Study
from services.publisher.encoders import book as text_book
from services.publisher.encoders.book import TextLane
from services.publisher.encoders.desk import TopicLog
from services.publisher.meters import Meters
from services.publisher.pump import Probe, RowPump, RowStore
from services.publisher.settings import PublisherSettings
from services.publisher.table import Rows


class TextRows:
    """One arm's. `store` is what its pump writes to; `send` is called by the pump's thread, `study` by another."""

    def __init__(
        self, settings: PublisherSettings, keeper: Keeper, store: RowStore, announce: Callable[[Lane, Rows], None],
        audit: Audit, meters: Meters,
    ) -> None:  # fmt: skip
        self._settings, self._keeper, self._audit, self._meters = settings, keeper, audit, meters
        blend = Blend(settings.text_rows_weight, settings.text_rows_until)
        self.store = ColdRows(store, announce, blend, settings.row_dim)
        self._study: Study | None = None

    def follow(self, pump: RowPump, probe: Probe) -> None:
        """Say whose rows they are, and how to judge."""
        settings = self._settings
        self.store.own = pump
        self._study = Study(
            self.store, pump, probe, partial(_serving, settings.store / "encoders" / "book.json"),
            lambda: self._keeper.book.learning, partial(_log, settings.kafka), self._audit, self._meters.text_map,
            settings.text_rows_weight, settings.text_rows_every_s,
        )  # fmt: skip

    def send(self) -> None:
        """Send some of the rows that are due, unless rows are held. Raises TemporaryError."""
        book = self._keeper.book
        if not book.switches.rows and not book.stopped and book.undo is None:
            self.store.send(book.learning)

    def study(self, now_us: int) -> None:
        """See `Study.step`."""
        if self._study is not None:
            self._study.step(now_us)
            self._meters.text_rows(self.store.counts)

    def status(self) -> dict[str, Any] | None:
        """For people."""
        return self._study.status() if self._study is not None else None

    def close(self) -> None:
        """Give the connection back."""
        if self._study is not None:
            self._study.close()


def _serving(path: Path) -> TextLane | None:
    """The encoder that serves, by the book that the publisher of arm main keeps; None: there is none."""
    try:
        return text_book.read(path).serving
    except CorruptState:  # whose book it is says so
        return None


def _log(bootstrap: Address) -> TopicLog:
    return TopicLog(bootstrap)
