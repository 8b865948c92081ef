"""Interactions -> what the loop would have seen: impressions that the positive ones answer, and events with tokens.

History rarely says what was shown. For each positive interaction one impression is made of its item and of N items
drawn from what shoppers touched at that time, so that the model learns to tell a choice from what is merely popular
(negatives by popularity: Rendle, Freudenthaler, 2014). Where the history has the list that was shown, that is taken.
Nothing is made up about shoppers: every event is one of the history.
"""

import random
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isnan

from freshrank.v1.events_pb2 import (
    Context,
    Degradation,
    Event,
    EventKind,
    HistoryItem,
    Impression,
    ImpressionItem,
)

from services.cli.history.catalogue import Content
from services.cli.history.events import NUMBERS, SHOWN, Interaction
from services.common.tokens import Tokens
from services.text.normal import query_key

RELEASE = PLACEMENT = SOURCE = "import"
POSITIVE = frozenset(
    {
        EventKind.EVENT_KIND_CLICK,
        EventKind.EVENT_KIND_ADD_TO_CART,
        EventKind.EVENT_KIND_PURCHASE,
        EventKind.EVENT_KIND_PLAY,
    }
)
"""Kinds that the heads of the joiner can wait for."""

_LATER = frozenset({EventKind.EVENT_KIND_ADD_TO_CART, EventKind.EVENT_KIND_PURCHASE})
_NOTHING = Content([], "")


@dataclass(frozen=True)
class Rules:
    """How impressions are made."""

    negatives: int = 20
    """Other items in an impression."""
    window: int = 10_000
    """Touches that say what is popular."""
    history: int = 20
    """Earlier items of the shopper in an impression; as feature `recent_items` keeps."""
    look_us: int = 1_000_000
    """From an impression to the action that answers it."""
    again_us: int = 24 * 3600 * 1_000_000
    """So long a cart or a purchase answers the impression that was clicked, instead of one of its own."""
    answered: int = 200_000
    """Clicked impressions remembered for that."""


@dataclass
class Popular:
    """What was touched lately; drawing from it is drawing by popularity."""

    window: int
    _touches: list[str] = field(default_factory=list)
    """A ring: the oldest lies at `_next` once it is full."""
    _next: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def touch(self, item: str) -> None:
        """An item was touched; the oldest touch goes."""
        self._counts[item] += 1
        if len(self._touches) < self.window:
            self._touches.append(item)
            return
        oldest, self._touches[self._next] = self._touches[self._next], item
        self._next = (self._next + 1) % self.window
        self._counts[oldest] -= 1
        if not self._counts[oldest]:
            del self._counts[oldest]

    def share(self, item: str) -> float:
        """Probability of drawing an item."""
        return self._counts[item] / len(self._touches) if self._touches else 0.0

    def draw(self, count: int, without: str, chance: random.Random) -> list[str]:
        """At most `count` different items; fewer when few are known."""
        if len(self._counts) - (without in self._counts) <= count:
            return sorted(item for item in self._counts if item != without)
        found: dict[str, None] = {}
        while len(found) < count:
            item = self._touches[int(chance.random() * len(self._touches))]
            if item != without:
                found[item] = None
        return list(found)


class Synthesis:
    """Takes interactions in time order; the same ones with the same seed always give the same records."""

    def __init__(self, rules: Rules, tokens: Tokens, contents: Mapping[str, Content], seed: int) -> None:
        self._rules, self._tokens, self._contents = rules, tokens, contents
        self._chance = random.Random(seed)
        self._popular = Popular(rules.window)
        self._recent: dict[str, deque[tuple[str, int, int]]] = {}
        self._answered: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        self.counts: Counter[str] = Counter()
        """events, impressions, positives, clicks, unknown_items."""

    def take(self, row: Interaction) -> tuple[Impression | None, Event | None]:
        """The impression that comes before an event, if any, and the event; None for a row that only shows."""
        impression, token = self._impression(row)
        self.counts["impressions"] += impression is not None
        if row.kind == SHOWN:
            return impression, None
        self.counts["events"] += 1
        self.counts["positives"] += row.kind in POSITIVE
        self.counts["clicks"] += row.kind == EventKind.EVENT_KIND_CLICK
        if row.item:
            self.counts["unknown_items"] += row.item not in self._contents
            self._touch(row)
        return impression, event_of(row, token)

    def _impression(self, row: Interaction) -> tuple[Impression | None, str]:
        if row.kind != SHOWN and row.kind not in POSITIVE:
            return None, ""
        answered = self._answered.get((row.user, row.item))
        if row.kind in _LATER and not row.shown and answered and row.time_us - answered[1] <= self._rules.again_us:
            return None, answered[0]
        listed = list(row.shown) or self._listed(row.item)
        if len(listed) < 2:
            return None, ""
        impression = self._made(row, listed)
        query = query_key(row.query) or ""
        token = self._tokens.issue(impression.impression_id, row.user, impression.time_us, query)
        if row.kind != SHOWN:
            self._answer(row, token)
        return impression, token

    def _listed(self, item: str) -> list[str]:
        """The item among drawn ones, at a place that says nothing."""
        listed = self._popular.draw(self._rules.negatives, item, self._chance)
        listed.insert(self._chance.randrange(len(listed) + 1), item)
        return listed

    def _answer(self, row: Interaction, token: str) -> None:
        self._answered[(row.user, row.item)] = (token, row.time_us)
        self._answered.move_to_end((row.user, row.item))
        if len(self._answered) > self._rules.answered:
            self._answered.popitem(last=False)

    def _touch(self, row: Interaction) -> None:
        self._popular.touch(row.item)
        self._recent.setdefault(row.user, deque(maxlen=self._rules.history)).appendleft(
            (row.item, row.kind, row.time_us)
        )

    def _made(self, row: Interaction, listed: Sequence[str]) -> Impression:
        region, device, platform = row.context
        drawn = not row.shown
        impression = Impression(
            impression_id=blake2b(f"{row.user}\0{row.event_id}".encode(), digest_size=16).hexdigest(),
            user_id=row.user,
            session_id=row.session,
            time_us=row.time_us - self._rules.look_us,
            placement=PLACEMENT,
            context=Context(region=region, device=device, platform=platform),
            release=RELEASE,
            arm=RELEASE,
            degradation=Degradation.DEGRADATION_NONE,
        )
        for position, item in enumerate(listed):
            content = self._contents.get(item, _NOTHING)
            impression.items.append(
                ImpressionItem(
                    item_id=item,
                    position=position,
                    content=content.tokens,
                    category=content.category,
                    propensity=self._popular.share(item) if drawn else 0.0,
                    shown=True,
                )
            )
        for item, kind, time_us in self._recent.get(row.user, ()):
            tokens = self._contents.get(item, _NOTHING).tokens
            impression.history.append(HistoryItem(item_id=item, kind=kind, time_us=time_us, content=tokens))  # type: ignore[arg-type]
        return impression


def event_of(row: Interaction, token: str) -> Event:
    """The event of a row, answering the impression of a token."""
    region, device, platform = row.context
    event = Event(
        event_id=row.event_id,
        kind=row.kind,  # type: ignore[arg-type]
        user_id=row.user,
        session_id=row.session,
        item_id=row.item,
        event_time_us=row.time_us,
        query=row.query,
        attribution_token=token,
        source=SOURCE,
    )
    if any(row.context):
        event.context.CopyFrom(Context(region=region, device=device, platform=platform))
    for name, value in zip(NUMBERS, row.numbers, strict=True):
        if not isnan(value):
            setattr(event, name, value)
    return event
