"""Invoices of online-retail in order of time as impressions, for benchmarks.learning.cold.

An invoice is a request; its list is what was bought, ten of it at most, among twenty other items that are in the
catalogue, drawn at random. An item enters the catalogue at the beginning of the day of its first sale.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from freshrank.v1.events_pb2 import Context, EventKind, HistoryItem, Impression, ImpressionItem
from numpy.typing import NDArray

from services.common.content import content_matrix, tokens_of
from services.common.spec import FeatureRef, ModelSpec
from services.demo.loaders.online_retail import steps
from services.demo.loaders.steps import Ask, Stock

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BOUGHT, OTHERS, HISTORY = 10, 20, 20
DAY_US = 86_400_000_000
HALF_LIFE_US = 7 * DAY_US
SPEC = ModelSpec(
    user_features=(FeatureRef(1, "invoices", "user_stats"),),
    item_features=(
        FeatureRef(10, "price", "catalogue"),
        FeatureRef(11, "sold_lately", "item_stats"),
        FeatureRef(12, "sold", "item_stats"),
        FeatureRef(13, "bought_before", "cross"),
    ),
    heads=("click",),
    history_length=HISTORY,
)


@dataclass(frozen=True)
class Visit:
    """An invoice: who bought what, items by number."""

    time_us: int
    user: str
    region: str
    bought: tuple[int, ...]

    @property
    def day(self) -> int:
        """Days since 1970."""
        return self.time_us // DAY_US


class Shop:
    """All visits and the catalogue; and what streaming features say as visits go by."""

    def __init__(self, visits: Sequence[Visit], ids: Sequence[str], titles: Sequence[str], prices: Floats) -> None:
        self.visits, self.ids, self.titles, self.prices = visits, ids, titles, prices
        self.tokens = [tokens_of([], "", title) for title in titles]
        self.content = content_matrix(self.tokens)
        self.first_day = np.full(len(ids), np.iinfo(np.int64).max)
        """Day [items] of the first sale."""
        for visit in visits:
            places = list(visit.bought)
            self.first_day[places] = np.minimum(self.first_day[places], visit.day)
        self.counts = True
        """False: what was sold is not told, so rows alone know what is liked."""
        self.start()

    def start(self) -> None:
        """Nothing was sold yet."""
        count = len(self.ids)
        self._lately, self._at, self._sold = np.zeros(count), np.zeros(count, np.int64), np.zeros(count)
        self._before: dict[str, dict[int, int]] = defaultdict(dict)
        self._history: dict[str, deque[tuple[int, int]]] = defaultdict(lambda: deque(maxlen=HISTORY))
        self._invoices: dict[str, int] = defaultdict(int)

    def catalogue(self, day: int) -> Ints:
        """Items that can be shown on a day."""
        return np.flatnonzero(self.first_day <= day)

    def features(self, visit: Visit, items: Ints) -> Floats:
        """Item features [n, 4] as a request finds them; of one never sold its price alone is known."""
        lately = self._lately[items] * 0.5 ** ((visit.time_us - self._at[items]) / HALF_LIFE_US)
        known = (self._sold[items] > 0) & self.counts
        before = self._before[visit.user]
        bought = np.array([before.get(item, 0) for item in items.tolist()], np.float32)
        sales = [np.where(known, each, np.nan) for each in (lately, self._sold[items])]
        return np.stack([self.prices[items], *sales, bought], axis=1).astype(np.float32)

    def impression(self, number: int, visit: Visit, items: Ints) -> Impression:
        """What was asked, and what was shown."""
        features = self.features(visit, items)
        return Impression(
            impression_id=f"{number:032x}",
            user_id=visit.user,
            time_us=visit.time_us,
            context=Context(region=visit.region),
            user_feature_ids=[ref.id for ref in SPEC.user_features],
            user_features=[self._invoices[visit.user]],
            item_feature_ids=[ref.id for ref in SPEC.item_features],
            items=[
                ImpressionItem(item_id=self.ids[item], position=k, features=row, content=self.tokens[item], shown=True)
                for k, (item, row) in enumerate(zip(items.tolist(), features.tolist(), strict=True))
            ],
            history=[
                HistoryItem(
                    item_id=self.ids[item],
                    kind=EventKind.EVENT_KIND_PURCHASE,
                    time_us=time_us,
                    content=self.tokens[item],
                )
                for item, time_us in reversed(self._history[visit.user])
            ],
        )

    def sold(self, visit: Visit) -> None:
        """The visit is over."""
        self._invoices[visit.user] += 1
        before, history = self._before[visit.user], self._history[visit.user]
        for item in visit.bought:
            past_us = visit.time_us - int(self._at[item])
            self._lately[item] = self._lately[item] * 0.5 ** (past_us / HALF_LIFE_US) + 1
            self._at[item] = visit.time_us
            self._sold[item] += 1
            before[item] = before.get(item, 0) + 1
            history.append((item, visit.time_us))


def load(folder: Path) -> Shop:
    """Of online-retail; postage, discounts and the like are no items."""
    place: dict[str, int] = {}
    titles: list[str] = []
    prices: list[float] = []
    visits = []
    for step in steps(folder):
        if isinstance(step, Stock):
            for item in step.items:
                if item.item_id[:1].isdigit() and item.title:
                    place[item.item_id] = len(titles)
                    titles.append(item.title)
                    prices.append(item.price)
        elif isinstance(step, Ask):
            bought = dict.fromkeys(place[e.item_id] for e in step.events if e.item_id in place)
            if bought:
                shopper = step.shopper
                visits.append(Visit(step.time_us, shopper.user_id, shopper.context.region, tuple(bought)))
    return Shop(visits, list(place), titles, np.array(prices, np.float32))


def shown(shop: Shop, visit: Visit, chance: np.random.Generator) -> tuple[Ints, int]:
    """The list of a visit, and how many at its beginning were bought."""
    bought = np.array(visit.bought, np.int64)
    if len(bought) > BOUGHT:
        bought = chance.choice(bought, BOUGHT, replace=False)
    others = chance.choice(shop.catalogue(visit.day), OTHERS, replace=False)
    return np.concatenate([bought, np.setdiff1d(others, visit.bought)]), len(bought)
