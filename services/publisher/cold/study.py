"""When rows are made from texts, and whether it is worth it: fitted by the clock, judged on clicks, told in the audit.

The judgment hides what it asks about. A fifth of the items that have rows is held out of a trial fit; the champion then
scores the newest labelled impressions twice, with these items' rows taken away, as a new item has none, and with rows
made from their texts instead. The map is used while the second log-loss is lower by two standard errors.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.encode import RowLookup
from services.publisher.audit import Audit
from services.publisher.book import Lane
from services.publisher.cold.ridge import Fit, fit
from services.publisher.cold.rows import ColdRows, InForce
from services.publisher.cold.texts import Lanes, Texts
from services.publisher.encoders.book import TextLane
from services.publisher.encoders.filler import Log
from services.publisher.pump import Probe
from services.publisher.table import OFTEN, Rows

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

ERRORS = 2.0
"""Standard errors by which log-loss has to be lower: it is looked at again and again."""


class AllRows(RowLookup, Protocol):
    """Rows as the trainer made them."""

    def seen(self) -> Rows:
        """All rows of items."""
        ...


@dataclass(frozen=True)
class Judgment:
    """What a fit is worth."""

    used: bool
    reason: str
    r2: float = 0.0
    gain: float = 0.0
    """Log-loss that rows of texts save on held-out items' impressions, against no rows."""
    error: float = 0.0
    items: int = 0

    @property
    def figures(self) -> dict[str, float]:
        """As numbers."""
        return {"used": float(self.used), "r2": self.r2, "gain": self.gain, "items": self.items}


def helps(r2: float, gain: float, error: float) -> bool:
    """Whether rows from texts are better than none, and not their mean alone.

    >>> helps(0.2, 3e-3, 1e-3), helps(0.2, 1e-3, 1e-3), helps(-0.1, 3e-3, 1e-3)
    (True, False, False)
    """
    return r2 > 0 and gain > ERRORS * error


class Hidden:
    """Rows with some items' taken away, or others in their place."""

    def __init__(self, rows: RowLookup, ids: Sequence[str], instead: Floats | None) -> None:
        self._rows, self._instead = rows, instead
        self._place = {item: place for place, item in enumerate(ids)}

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        rows, masks = self._rows.items(ids)
        places = np.array([self._place.get(item, -1) for item in ids], np.int64)
        at = np.flatnonzero(places >= 0)
        rows[at] = 0 if self._instead is None else self._instead[places[at]]
        masks[at] = float(self._instead is not None)
        return rows, masks

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers."""
        return self._rows.users(ids)


class Study:
    """One arm's. One thread calls `step`; `status` is for any."""

    def __init__(
        self,
        rows: ColdRows,
        own: AllRows,
        probe: Probe,
        text: Callable[[], TextLane | None],
        lane: Callable[[], Lane],
        log: Callable[[], Log],
        audit: Audit,
        told: Callable[[Mapping[str, float]], None],
        weight: float,
        every_s: float,
    ) -> None:
        """`weight`: times seen at which an item counts half in a fit; `every_s` from one fit to the next."""
        self._rows, self._own, self._probe, self._audit, self._told = rows, own, probe, audit, told
        self._text, self._lane, self._log = text, lane, log
        self._weight, self._every_us = weight, int(every_s * 1e6)
        self._texts: Texts | None = None
        self._fitted_us = 0
        self.judgment: Judgment | None = None
        """Of the last fit; None: none was judged yet."""

    def step(self, now_us: int) -> None:
        """Read what has come; fit and judge when it is time. Raises TemporaryError: call again."""
        text, lane = self._text(), self._lane()
        lanes = None if text is None else Lanes(text, lane)
        if self._texts is not None and self._texts.lanes != lanes:
            self.close()
        if lanes is None:
            return
        if self._texts is None:
            self._texts, self._fitted_us = Texts(lanes, self._log()), 0
        moved = self._texts.step()
        if not self._texts.caught_up:
            return
        self._rows.moved(moved)
        if now_us - self._fitted_us >= self._every_us:
            self._fitted_us = now_us
            self._renew(self._texts, now_us)

    def status(self) -> dict[str, Any]:
        """For people."""
        found = self.judgment
        about: dict[str, Any] = {} if found is None else {"reason": found.reason, **found.figures}
        return about | self._rows.counts

    def close(self) -> None:
        """Give the connection back; rows are made from texts no more."""
        self._rows.use(None, ())
        self.judgment = None
        if self._texts is not None:
            self._texts.close()
            self._texts = None

    def _renew(self, texts: Texts, now_us: int) -> None:
        own = self._own.seen()
        own = own.pick(np.flatnonzero(own.present))
        at, vectors = texts.take(own.ids)
        warm = own.pick(at)
        seen = np.full(len(warm), OFTEN, np.float32) if warm.seen is None else warm.seen.astype(np.float32)
        weights = seen / (seen + np.float32(self._weight))
        order = np.argsort(warm.ids, kind="stable")  # ids come in the order of their rows, which is that of fame
        found = fit(vectors[order], warm.rows[order], np.maximum(weights[order], np.float32(1e-6)))
        judged = self._judged(found, warm.pick(order), vectors[order])
        if judged is None:
            return  # too little is kept to judge by: what is in force stays
        self._told(judged.figures)
        before, self.judgment = self.judgment, judged
        if before is None or before.used != judged.used:
            self._audit.add(
                now_us, "content_rows", used=judged.used, reason=judged.reason, r2=judged.r2, gain=judged.gain,
                error=judged.error, items=judged.items, encoder=texts.lanes.text.encoder, epoch=texts.lanes.rows.epoch,
            )  # fmt: skip
        if found is not None and judged.used:
            self._rows.use(InForce(texts, found.map), texts.ids())
        else:
            self._rows.use(InForce(texts, None), self._left(texts, own))

    def _left(self, texts: Texts, own: Rows) -> list[str]:
        """Items whose rows on the topic may have been made with a map: none where it holds no text's row."""
        return [*texts.content, *own.ids] if texts.content else []

    def _judged(self, found: Fit | None, warm: Rows, vectors: Floats) -> Judgment | None:
        if found is None:
            return Judgment(False, f"{len(warm)} items have rows and vectors, too few to fit on", items=len(warm))
        about = Judgment(False, "", found.r2, items=found.items)
        if found.r2 <= 0:
            return replace(about, reason="rows of held-out items are no nearer than their mean")
        held = warm.pick(found.held)
        instead = found.trial.rows(vectors[found.held])
        probed = self._probe(Hidden(self._own, held.ids, instead), Hidden(self._own, held.ids, None))
        if probed is None or not np.isfinite(probed[0].mean):
            return None
        gain, error = -probed[0].mean, probed[0].error
        better = helps(found.r2, gain, error)
        reason = f"log-loss {gain:+.2g} ± {error:.2g} less with held-out items' rows from texts than without"
        return replace(about, used=better, reason=reason, gain=gain, error=error)
