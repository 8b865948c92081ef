"""Candidates of a kind of text model: the newest is decided on, and older ones make way for it."""

import logging
from collections.abc import Callable

from services.common.errors import PermanentError, TemporaryError
from services.publisher.audit import Audit
from services.publisher.checks import Verdict
from services.publisher.encoders.book import Decided, TextKeeper
from services.publisher.encoders.store import EncoderStore

logger = logging.getLogger(__name__)

_RETRY_US = 2_000_000


class Waiting:
    """Those of one store; what was decided goes to the book and the audit record."""

    def __init__(self, keeper: TextKeeper, store: EncoderStore, audit: Audit, told: Callable[[str], None]) -> None:
        """`told` of each decision, to count it."""
        self._keeper, self._store, self._audit, self._told = keeper, store, audit, told
        self._retry_us = 0

    def consider(self, now_us: int, decide: Callable[[str, int], None], leave: Callable[[str], None]) -> None:
        """Decide on the newest. One that cannot be judged now is tried again; `leave`: give up what it has taken."""
        if now_us < self._retry_us:
            return
        waiting = [encoder for encoder in self._store.candidates() if not self._settled(encoder)]
        for older in waiting[:-1]:
            self.refuse(older, "superseded by a newer candidate", now_us)
        if not waiting:
            return
        try:
            decide(waiting[-1], now_us)
        except (TemporaryError, OSError) as error:
            logger.warning("encoder waits", extra={"encoder": waiting[-1], "error": str(error)})
            self._retry_us = now_us + _RETRY_US
        except PermanentError as error:
            leave(waiting[-1])
            self.refuse(waiting[-1], str(error), now_us)

    def refuse(self, encoder: str, reason: str, now_us: int, found: Verdict | None = None) -> None:
        """It is not let in."""
        checks = tuple(found.to_json()) if found else ()
        self._audit.add(now_us, "refused", encoder, reason=reason, checks=list(checks))
        self._keeper.change(lambda book: book.noted(Decided(encoder, "refused", reason, now_us, checks)))
        self._store.drop_candidate(encoder)
        self._told("refused")

    def _settled(self, encoder: str) -> bool:
        if self._keeper.book.knows(encoder):
            self._store.drop_candidate(encoder)
            return True
        return False
