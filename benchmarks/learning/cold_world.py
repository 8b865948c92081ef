"""The demo's simulator as a closed shop: what shoppers do with what they are shown is what is learned.

The order of the whole offer is shown, its first twenty, two of them exchanged for any others; a shopper clicks by the
truth of `services.demo.world`. Every day new items come. With `own` rows items wait for rows of their own; `blended`
is what the publisher does, its judgment on the newest lists included.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from freshrank.v1.events_pb2 import Context, EventKind, HistoryItem, Impression, ImpressionItem
from freshrank.v1.models_pb2 import CatalogueItem
from freshrank.v1.ranking_pb2 import Item
from numpy.typing import NDArray

from benchmarks.learning.cold_rows import Rowed, Shown, batch
from services.common.content import content_matrix, tokens_of
from services.common.encode import encode
from services.common.spec import FeatureRef, ModelSpec
from services.demo.world import Shopper, World
from services.publisher.cold.study import helps
from services.text.item import item_text
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.factory import learner_of

Floats = NDArray[np.float32]

WAYS = ("own", "blended")
TOP, ANY, TOGETHER, KEPT = 20, 2, 20, 1_000
SECOND_US = 1_000_000
START_US = 1_700_000_000 * SECOND_US
SPEC = ModelSpec(
    user_features=(FeatureRef(1, "lists", "user_stats"),),
    item_features=(FeatureRef(10, "price", "catalogue"), FeatureRef(11, "clicks", "item_stats")),
    heads=("click",),
)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    items: int = 300
    shoppers: int = 100
    days: int = 15
    visits: int = 80
    """A day."""
    new: int = 10
    """Items a day."""
    from_day: int = 5
    """Days before anything is told."""


class Offer:
    """The catalogue as a model sees it."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.tokens: list[list[int]] = []
        self.content = np.zeros((0, SPEC.content_dim), np.float32)
        self.price, self.clicks, self.born = np.zeros(0), np.zeros(0), np.zeros(0, np.int64)

    def add(self, items: Sequence[Item], day: int) -> None:
        """Items that are new today."""
        self.ids += [item.item_id for item in items]
        tokens = [tokens_of(item.categories, item.brand, item.title) for item in items]
        self.tokens += tokens
        self.content = np.concatenate([self.content, content_matrix(tokens)])
        self.price = np.append(self.price, [item.price for item in items])
        self.clicks = np.append(self.clicks, np.zeros(len(items)))
        self.born = np.append(self.born, np.full(len(items), day))

    @property
    def features(self) -> Floats:
        """[items, 2]; clicks are not known before the first."""
        return np.stack([self.price, np.where(self.clicks > 0, self.clicks, np.nan)], axis=1).astype(np.float32)


class ClosedShop:
    """One shop that lives."""

    def __init__(self, way: str, seed: int, size: Size, encoder: Callable[[Sequence[str]], Floats]) -> None:
        self._blended, self._size, self._encoder = way == "blended", size, encoder
        self._world = World(seed=seed, items=size.items, shoppers=size.shoppers)
        settings = Trial("cold", {"seed": seed, "max_rows": 20_000, "batch_impressions": TOGETHER}).settings()
        self._learner = learner_of(settings, SPEC, None)
        self._rowed, self._offer = Rowed(self._learner), Offer()
        self._chance = np.random.default_rng(seed)
        self._history: dict[str, deque[HistoryItem]] = defaultdict(lambda: deque(maxlen=SPEC.history_length))
        self._lists: dict[str, int] = defaultdict(int)
        self._kept: deque[Shown] = deque(maxlen=KEPT)
        self._numbers = 0
        self._used = False
        self.sums = np.zeros(5)
        """Lists, expected clicks, places of the order, of these new ones, and their expected clicks."""
        self.judged: list[dict[str, float]] = []

    def live(self) -> dict[str, Any]:
        """All days."""
        self._stock(list(self._world.items.values()), -1)
        for day in range(self._size.days):
            self._stock(self._world.new_items(self._size.new, self._now(day, 0)), day)
            self._renew()
            waiting: list[Shown] = []
            for visit in range(self._size.visits):
                waiting.append(self._visit(day, self._now(day, visit)))
                if len(waiting) == TOGETHER:
                    self._learner.apply(batch(self._numbers, waiting))
                    self._kept.extend(waiting)
                    waiting = []
        names = ("lists", "expected", "places", "new", "new_expected")
        return {**dict(zip(names, self.sums.tolist(), strict=True)), "maps": self.judged}

    def _stock(self, items: Sequence[Item], day: int) -> None:
        texts = [item_text(CatalogueItem(title=i.title, brand=i.brand, categories=i.categories)) for i in items]
        self._offer.add(items, day)
        self._rowed.add([item.item_id for item in items], self._encoder(texts))

    def _renew(self) -> None:
        self._rowed.renew()
        found = self._rowed.judged(list(self._kept))
        self._used = found is not None and helps(found["r2"], found["gain"], found["error"])
        if found is not None:
            self.judged.append({**found, "used": float(self._used)})

    def _visit(self, day: int, now_us: int) -> Shown:
        while (shopper := self._world.arrive()).bot:
            pass
        session = self._world.begin_session(shopper)
        order = self._order(shopper, now_us)
        first = order[:TOP].copy()
        first[self._chance.choice(TOP, ANY, replace=False)] = self._chance.choice(order[TOP:], ANY, replace=False)
        impression = self._impression(shopper, first, now_us)
        ids = [self._offer.ids[k] for k in first]
        clicked = self._world.react(shopper, session, ids, "", now_us).clicked
        if day >= self._size.from_day:
            self._tell(shopper, order[:TOP], day, now_us)
        for item in clicked:
            place = first[ids.index(item)]
            self._offer.clicks[place] += 1
            entry = HistoryItem(item_id=item, kind=EventKind.EVENT_KIND_CLICK, time_us=now_us,
                                content=self._offer.tokens[place])  # fmt: skip
            self._history[shopper.user_id].appendleft(entry)
        self._lists[shopper.user_id] += 1
        self._numbers += 1
        return Shown(impression, [ids.index(item) for item in clicked])

    def _tell(self, shopper: Shopper, order: NDArray[np.int64], day: int, now_us: int) -> None:
        """By the truth, without luck: what the order itself would earn."""
        ids = [self._offer.ids[k] for k in order]
        chances = np.array([self._world.click_chance(shopper, item, k, now_us) for k, item in enumerate(ids)])
        new = self._offer.born[order] == day
        self.sums += [1, chances.sum(), len(order), new.sum(), chances[new].sum()]

    @torch.no_grad()
    def _order(self, shopper: Shopper, now_us: int) -> NDArray[np.int64]:
        offer, own = self._offer, self._rowed.own()
        every = np.arange(len(offer.ids))
        rows = self._rowed.rows("blended", own, every) if self._used and self._blended else own.rows
        arrays = encode([self._impression(shopper, every[:1], now_us)], SPEC, self._learner.tables)
        ones = np.ones((1, len(every)), np.float32)
        arrays |= {"item": offer.features[None], "content": offer.content[None], "row": rows[None],
                   "row_mask": ones[:, :, None], "mask": ones}  # fmt: skip
        given = {name: torch.from_numpy(array) for name, array in arrays.items()}
        logits = self._learner.strategy.served.logits(given)[0, :, 0].numpy()
        return np.argsort(-logits, kind="stable")

    def _impression(self, shopper: Shopper, places: NDArray[np.int64], now_us: int) -> Impression:
        offer, features = self._offer, self._offer.features[places].tolist()
        return Impression(
            impression_id=f"{self._numbers:032x}",
            user_id=shopper.user_id,
            time_us=now_us,
            context=Context(region=shopper.context[0], device=shopper.context[1], platform=shopper.context[2]),
            user_feature_ids=[ref.id for ref in SPEC.user_features],
            user_features=[self._lists[shopper.user_id]],
            item_feature_ids=[ref.id for ref in SPEC.item_features],
            items=[
                ImpressionItem(item_id=offer.ids[k], position=at, features=row, content=offer.tokens[k], shown=True)
                for at, (k, row) in enumerate(zip(places.tolist(), features, strict=True))
            ],
            history=self._history[shopper.user_id],
        )

    def _now(self, day: int, visit: int) -> int:
        return START_US + day * 86_400 * SECOND_US + visit * (86_400 // self._size.visits) * SECOND_US


def live(way: str, seed: int, encoder: Callable[[Sequence[str]], Floats], size: Size | None = None) -> dict[str, Any]:
    """One shop's life: sums from day `from_day` on, and each day's judgment."""
    return ClosedShop(way, seed, size or Size(), encoder).live()
