"""A shop that reacts: catalogue, shoppers with drifting tastes, and what they do with a ranking.

Pure and seeded: the same seed and the same answers give the same behaviour. A shopper looks at position p with
probability 1 / (1 + p) ** bias, likes an item by taste, price and a flash sale, and then clicks, carts and buys.
`--domain` changes names and kinds of event only: shop, news, video and music share the one behaviour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from freshrank.v1 import events_pb2, ranking_pb2
from numpy.typing import NDArray

TASTE_DIM = 8
Kind = events_pb2.EventKind


@dataclass(frozen=True)
class Domain:
    """Names and event kinds of one kind of site."""

    name: str
    categories: tuple[str, ...]
    words: tuple[str, ...]
    brands: tuple[str, ...]
    deepen: int
    """The event after a click: a cart, a comment, a play."""
    finish: int
    """The event that is worth most: a purchase, a like, a follow."""
    priced: bool = True


DOMAINS = {
    "shop": Domain(
        "shop",
        ("shoes", "jackets", "phones", "laptops", "garden", "kitchen", "toys", "books", "sports", "beauty"),
        ("red", "blue", "light", "classic", "pro", "mini", "max", "eco", "soft", "smart", "urban", "trail"),
        ("Aro", "Belt", "Cira", "Dovo", "Elan", "Fyn"),
        Kind.EVENT_KIND_ADD_TO_CART,
        Kind.EVENT_KIND_PURCHASE,
    ),
    "news": Domain(
        "news",
        ("world", "politics", "economy", "science", "culture", "football", "cycling", "local", "weather", "travel"),
        ("report", "vote", "storm", "match", "study", "budget", "opening", "interview", "review", "live"),
        ("Agency", "Desk", "Column"),
        Kind.EVENT_KIND_COMMENT,
        Kind.EVENT_KIND_LIKE,
        priced=False,
    ),
    "video": Domain(
        "video",
        ("drama", "comedy", "crime", "nature", "kids", "history", "action", "romance", "music", "cooking"),
        ("night", "river", "secret", "last", "summer", "city", "lost", "first", "silent", "golden"),
        ("North", "Harbour", "Lumen", "Vela"),
        Kind.EVENT_KIND_PLAY,
        Kind.EVENT_KIND_LIKE,
        priced=False,
    ),
    "music": Domain(
        "music",
        ("rock", "jazz", "folk", "techno", "classical", "pop", "soul", "metal", "ambient", "hiphop"),
        ("blue", "heart", "night", "road", "rain", "dance", "home", "fire", "moon", "slow"),
        ("Alma", "Kite", "Onda", "Pell", "Rook"),
        Kind.EVENT_KIND_PLAY,
        Kind.EVENT_KIND_FOLLOW,
        priced=False,
    ),
}


@dataclass
class Shopper:
    """One person: latent taste (unit vector), a price point and a habit of returning."""

    user_id: str
    taste: NDArray[np.float64]
    budget: float
    context: tuple[str, str, str]
    bot: bool = False
    sessions: int = 0


@dataclass
class Reaction:
    """What a shopper does with an answer: events in order, each with its delay in seconds after the answer."""

    events: list[tuple[float, events_pb2.Event]] = field(default_factory=list)
    clicked: list[str] = field(default_factory=list)
    expected_clicks: float = 0.0
    """Sum of click probabilities of what was shown: the click-through without luck."""


class World:
    """The whole shop. Every method takes the time; nothing reads a clock."""

    def __init__(self, domain: str = "shop", seed: int = 7, items: int = 1_500, shoppers: int = 600) -> None:
        self.domain = DOMAINS[domain]
        self._rng = np.random.default_rng(seed)
        names = len(self.domain.categories)
        self._category_taste = _units(self._rng.normal(size=(names, TASTE_DIM)))
        self.items: dict[str, ranking_pb2.Item] = {}
        self._latent = np.zeros((0, TASTE_DIM))
        self._price = np.zeros(0)
        self._place: dict[str, int] = {}
        self._events = 0
        self._made = 0
        self.sale: tuple[str, int, int] = ("", 0, 0)
        self.first_items = self.new_items(items, 0)
        self.shoppers = [self._new_shopper() for _ in range(shoppers)]

    def new_items(self, count: int, now_us: int) -> list[ranking_pb2.Item]:
        """Items that arrive now: a category, a title whose words hint at the taste, a price, a stock."""
        fresh = [self._new_item(now_us) for _ in range(count)]
        latents, prices = zip(*(pair[1:] for pair in fresh), strict=True)
        self._latent = np.vstack([self._latent, *latents])
        self._price = np.append(self._price, prices)
        for item, _, _ in fresh:
            self._place[item.item_id] = len(self._place)
            self.items[item.item_id] = item
        return [item for item, _, _ in fresh]

    def arrive(self) -> Shopper:
        """The shopper of the next session: mostly one who has been here, now and then a new one."""
        if self._rng.random() < 0.05:
            self.shoppers.append(self._new_shopper())
            return self.shoppers[-1]
        # Habit: some come often, most seldom.
        return self.shoppers[int(len(self.shoppers) * self._rng.random() ** 2)]

    def newcomer(self) -> Shopper:
        """A person who has not been here before."""
        while (shopper := self._new_shopper()).bot:
            pass
        self.shoppers.append(shopper)
        return shopper

    def crowd(self, count: int) -> list[Shopper]:
        """So many different shoppers, or all there are."""
        chosen = self._rng.permutation(len(self.shoppers))[:count]
        return [self.shoppers[place] for place in chosen.tolist()]

    def begin_session(self, shopper: Shopper) -> str:
        """Start a visit: tastes have drifted a little since the last one."""
        shopper.sessions += 1
        shopper.taste = _units(shopper.taste + 0.1 * self._rng.normal(size=TASTE_DIM))
        return f"{shopper.user_id}-s{shopper.sessions}"

    def start_sale(self, now_us: int, seconds: float) -> str:
        """A flash sale in one category: it draws everybody's eyes for a while."""
        category = str(self._rng.choice(self.domain.categories))
        self.sale = (category, now_us, now_us + int(seconds * 1e6))
        return category

    def shift_tastes(self, share: float) -> None:
        """A planted drift: a share of the shoppers changes its mind altogether."""
        for shopper in self.shoppers:
            if self._rng.random() < share:
                shopper.taste = _units(self._rng.normal(size=TASTE_DIM))

    def react(
        self,
        shopper: Shopper,
        session: str,
        shown: Sequence[str],
        token: str,
        now_us: int,
        fit: Callable[[str], float] = lambda item_id: 1.0,
    ) -> Reaction:
        """Look at a ranking from the top, click what pleases, and go on with what was clicked.

        `fit`: part of an item's usual chance of a click that it has for what is looked for.
        """
        out = Reaction()
        delay = 0.0
        for position, item_id in enumerate(shown):
            chance = self.click_chance(shopper, item_id, position, now_us) * fit(item_id)
            out.expected_clicks += chance
            delay += float(self._rng.exponential(0.25))
            if self._rng.random() >= chance:
                continue
            out.clicked.append(item_id)
            out.events.append((delay, self._event(shopper, session, item_id, Kind.EVENT_KIND_CLICK, token)))
            delay = self._go_on(out, delay, shopper, session, item_id, token)
        return out

    def click_chance(self, shopper: Shopper, item_id: str, position: int, now_us: int) -> float:
        """Probability that this shopper clicks this item at this place."""
        seen = 1.0 / (1.0 + position) ** 0.6
        if shopper.bot:
            return 0.6
        return float(seen * _sigmoid(-3.2 + 5.0 * self._liking(shopper, item_id, now_us)))

    def match(self, shopper: Shopper, item_id: str) -> float:
        """How near an item is to a shopper's taste, from -1 to 1."""
        return float(self._latent[self._place[item_id]] @ shopper.taste)

    def searched(self, shopper: Shopper, session: str, query: str) -> events_pb2.Event:
        """A search that a shopper made."""
        event = self._event(shopper, session, "", Kind.EVENT_KIND_SEARCH, "")
        event.query = query
        return event

    def browse(self, shopper: Shopper, session: str) -> events_pb2.Event:
        """Something the shopper finds without us: a view of an item near the taste, or a search."""
        near = self._rng.integers(0, len(self._latent), 40)
        best = near[int(np.argmax(self._latent[near] @ shopper.taste))]
        item_id = list(self.items)[int(best)] if len(self.items) == len(self._latent) else ""
        if self._rng.random() < 0.25:
            event = self._event(shopper, session, item_id, Kind.EVENT_KIND_SEARCH, "")
            event.query = self.items[item_id].title.split()[0] if item_id else self.domain.words[0]
            return event
        return self._event(shopper, session, item_id, Kind.EVENT_KIND_VIEW, "")

    def spoil(self, event: events_pb2.Event) -> events_pb2.Event:
        """A malformed copy of an event: what real producers send now and then."""
        bad = events_pb2.Event()
        bad.CopyFrom(event)
        bad.event_id = f"{event.event_id}-bad"
        choice = int(self._rng.integers(0, 4))
        if choice == 0:
            bad.user_id = ""
        elif choice == 1:
            bad.kind = 77  # type: ignore[assignment]
        elif choice == 2:
            bad.kind, bad.rating = Kind.EVENT_KIND_RATE, float("nan")
        else:
            bad.event_time_us = 1
        return bad

    def chance(self) -> float:
        """A uniform number from the world's own generator, for the driver's choices."""
        return float(self._rng.random())

    def _go_on(self, out: Reaction, delay: float, shopper: Shopper, session: str, item_id: str, token: str) -> float:
        delay += float(self._rng.exponential(0.5))
        out.events.append((delay, self._event(shopper, session, item_id, Kind.EVENT_KIND_VIEW, token)))
        if self._rng.random() < 0.35:
            delay += float(self._rng.exponential(1.0))
            out.events.append((delay, self._event(shopper, session, item_id, self.domain.deepen, token)))
            if self._rng.random() < 0.4:
                delay += float(self._rng.exponential(1.0))
                out.events.append((delay, self._event(shopper, session, item_id, self.domain.finish, token)))
        return delay

    def _liking(self, shopper: Shopper, item_id: str, now_us: int) -> float:
        place = self._place.get(item_id)
        if place is None:
            return -0.5
        match = float(self._latent[place] @ shopper.taste)
        price = -0.15 * abs(np.log(self._price[place] / shopper.budget)) if self.domain.priced else 0.0
        category, start, end = self.sale
        on_sale = 0.3 if category == self.items[item_id].categories[0] and start <= now_us < end else 0.0
        return match + float(price) + on_sale

    def _event(self, shopper: Shopper, session: str, item_id: str, kind: int, token: str) -> events_pb2.Event:
        self._events += 1
        event = events_pb2.Event(
            event_id=f"e{self._events}",
            kind=kind,  # type: ignore[arg-type]
            user_id=shopper.user_id,
            session_id=session,
            item_id=item_id,
            attribution_token=token,
            source="demo",
        )
        region, device, platform = shopper.context
        event.context.region, event.context.device, event.context.platform = region, device, platform
        if kind == Kind.EVENT_KIND_PURCHASE:
            event.quantity = 1
            event.value = self.items[item_id].price
        if kind == Kind.EVENT_KIND_PLAY:
            event.play_share = float(np.clip(self._rng.beta(2, 1), 0, 1))
            event.play_seconds = 240 * event.play_share
        return event

    def _new_item(self, now_us: int) -> tuple[ranking_pb2.Item, NDArray[np.float64], float]:
        domain, rng = self.domain, self._rng
        self._made += 1
        kind = int(rng.integers(0, len(domain.categories)))
        latent = _units(self._category_taste[kind] + 0.7 * rng.normal(size=TASTE_DIM) / np.sqrt(TASTE_DIM))
        # The loudest directions of the taste show up as words: content carries part of the truth.
        words = [domain.words[int(i) % len(domain.words)] for i in np.argsort(-latent)[:2]]
        price = float(np.round(np.exp(rng.normal(3.2, 0.7)), 2))
        item = ranking_pb2.Item(
            item_id=f"{domain.name[0]}{self._made}",
            title=" ".join([*words, domain.categories[kind]]),
            categories=[domain.categories[kind]],
            brand=str(rng.choice(domain.brands)),
            published_us=now_us,
        )
        if domain.priced:
            item.price = price
            item.stock = int(rng.integers(1, 500))
        return item, latent, price

    def _new_shopper(self) -> Shopper:
        rng = self._rng
        interests = self._category_taste[rng.integers(0, len(self._category_taste), 2)].sum(axis=0)
        context: Any = tuple(
            str(rng.choice(names))
            for names in (("DE", "FR", "IT", "NL"), ("phone", "desktop", "tablet"), ("web", "app"))
        )
        return Shopper(
            user_id=f"u{rng.integers(1 << 40):010x}",
            taste=_units(interests + 0.4 * rng.normal(size=TASTE_DIM)),
            budget=float(np.exp(rng.normal(3.2, 0.4))),
            context=context,
            bot=bool(rng.random() < 0.01),
        )


def _units(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _sigmoid(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-x)))
