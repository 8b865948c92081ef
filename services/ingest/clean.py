"""Cleaning as a list of named steps: each looks at one draft, may change it, drop it or refuse it, and is counted.

Verdicts depend on the state and the record only, so the same log always gives the same rows.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidInput
from services.common.records import BOT, CLIPPED, IMPRESSION
from services.common.stage import Snapshot
from services.common.tokens import query_of
from services.ingest.bots import BotRules, Bots
from services.ingest.catalogue import Lookup
from services.ingest.clip import Clipper
from services.ingest.draft import Draft
from services.ingest.duplicates import Seen, event_key
from services.ingest.validate import Limits, check_event
from services.text.normal import normal_query

KEPT, CHANGED, DROPPED = 0, 1, 2
"""What a step did to a draft. DROPPED: it was taken before and leaves no trace but the count."""

Step = Callable[[Draft], int]


@dataclass(frozen=True)
class Rules:
    """Everything cleaning decides by."""

    limits: Limits = field(default_factory=Limits)
    bots: BotRules = field(default_factory=BotRules)
    lateness_us: int = 3_600_000_000
    """Events older than this against the log clock are late."""
    duplicates: int = 1_000_000
    """Event ids remembered per partition."""
    clip_every: int = 1_000
    """Values of a column between two bounds."""


class Cleaner:
    """The steps and their state, for one partition."""

    def __init__(self, rules: Rules, catalogue: Lookup) -> None:
        self._rules = rules
        self._catalogue = catalogue
        self._seen = Seen(rules.lateness_us, rules.duplicates)
        self._clipper = Clipper(rules.clip_every)
        self._bots = Bots(rules.bots)
        self._key = 0
        self.clock_us = 0
        """The log clock: the largest time of the rows so far."""
        self.counts: Counter[str] = Counter()
        """How often each step changed, dropped or refused a draft, by the step's name."""
        self.event_steps: tuple[tuple[str, Step], ...] = (
            ("text", self._text),
            ("schema", self._schema),
            ("time", self._time),
            ("duplicates", self._duplicates),
            ("late", self._late),
            ("catalogue", self._stamp),
            ("outliers", self._outliers),
            ("bots", self._judge),
        )
        self.impression_steps: tuple[tuple[str, Step], ...] = (
            ("time", self._time),
            ("duplicates", self._duplicates),
            ("late", self._late),
            ("bots", self._judge),
        )

    def clean(self, draft: Draft, steps: tuple[tuple[str, Step], ...]) -> bool:
        """Run the steps; False when the draft was dropped. Raises InvalidInput when it is refused."""
        for name, step in steps:
            try:
                done = step(draft)
            except InvalidInput:
                self.counts[name] += 1
                raise
            if done != KEPT:
                self.counts[name] += 1
                if done == DROPPED:
                    return False
        self._seen.add(self._key, self.clock_us)
        self.advance(draft.time_us)
        return True

    def advance(self, time_us: int) -> None:
        """Move the log clock; never back."""
        if time_us > self.clock_us:
            self.clock_us = time_us

    def forget(self, user: str) -> None:
        """Drop what is held of a shopper; the hashes of taken events name nobody and go within the hour."""
        self._bots.forget(user)

    @property
    def clip_version(self) -> int:
        """Version of the bounds in force."""
        return self._clipper.version

    @property
    def clip_bounds(self) -> dict[str, float]:
        """The bounds in force, by column."""
        return dict(self._clipper.bounds)

    @property
    def evicted(self) -> int:
        """Event ids forgotten before their time, because there were too many."""
        return self._seen.evicted

    def snapshot(self) -> Snapshot:
        """The state of all steps."""
        parts = (self._seen.snapshot("seen"), self._clipper.snapshot(), self._bots.snapshot())
        arrays: dict[str, Any] = {}
        meta: dict[str, Any] = {"clock_us": self.clock_us}
        for part in parts:
            arrays |= part.arrays
            meta |= part.meta
        return Snapshot(0, arrays, meta)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot` gave."""
        self.clock_us = int(snapshot.meta["clock_us"])
        self._seen.restore("seen", snapshot)
        self._clipper.restore(snapshot)
        self._bots.restore(snapshot)

    def _text(self, draft: Draft) -> int:
        query, region, device, platform = draft.query, draft.region, draft.device, draft.platform
        asked = query or query_of(draft.token or "")  # whatever follows a search counts for what was searched for
        if len(asked) <= self._rules.limits.text_chars:
            draft.query = normal_query(asked)
        draft.region, draft.device, draft.platform = tidy(region), tidy(device), tidy(platform)
        same = draft.query == query and (draft.region, draft.device, draft.platform) == (region, device, platform)
        return KEPT if same else CHANGED

    def _schema(self, draft: Draft) -> int:
        check_event(draft, self._rules.limits)
        return KEPT

    def _time(self, draft: Draft) -> int:
        # A clock that runs ahead would move the log clock for everybody: nothing happens after its arrival.
        if 0 < draft.time_us <= draft.received_us:
            return KEPT
        draft.time_us = draft.received_us
        return CHANGED

    def _duplicates(self, draft: Draft) -> int:
        self._key = event_key(draft.user or "", draft.event_id or "")
        return DROPPED if self._key in self._seen else KEPT

    def _late(self, draft: Draft) -> int:
        if draft.time_us < self.clock_us - self._rules.lateness_us:
            name = "time_us" if draft.kind == IMPRESSION else "event_time_us"
            behind = (self.clock_us - draft.time_us) // 1_000_000
            raise InvalidInput(name, "late", f"is {behind} s behind the log, more than is folded in")
        return KEPT

    def _stamp(self, draft: Draft) -> int:
        if draft.item is None:
            return KEPT
        draft.category, draft.price = self._catalogue(draft.item)
        return CHANGED if draft.category is not None or draft.price is not None else KEPT

    def _outliers(self, draft: Draft) -> int:
        version, clipped = self._clipper.version, False
        if draft.value is not None:
            clipped |= (bounded := self._clipper.clip("value", draft.value)) != draft.value
            draft.value = bounded
        if draft.quantity is not None:
            clipped |= (bounded := self._clipper.clip("quantity", draft.quantity)) != draft.quantity
            draft.quantity = bounded
        if draft.play_seconds is not None:
            clipped |= (bounded := self._clipper.clip("play_seconds", draft.play_seconds)) != draft.play_seconds
            draft.play_seconds = bounded
        draft.clip_version = version
        if not clipped:
            return KEPT
        draft.verdict |= CLIPPED
        return CHANGED

    def _judge(self, draft: Draft) -> int:
        user = draft.user or ""
        if draft.kind == IMPRESSION:
            bot = self._bots.is_bot(user, self.clock_us)
        else:
            bot = self._bots.judge(user, draft.kind, draft.time_us, max(self.clock_us, draft.time_us))
        if not bot:
            return KEPT
        draft.verdict |= BOT
        return CHANGED


def tidy(text: str | None) -> str | None:
    """A short label without spaces at its ends or unprintable letters; None when nothing is left."""
    if text is None:
        return None
    if not text.isprintable():
        text = "".join(letter for letter in text if letter.isprintable())
    return text.strip() or None
