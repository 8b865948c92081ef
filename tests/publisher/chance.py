"""Answers that were left to chance: as slots with known truth, and as the gateway logs them."""

from dataclasses import dataclass, field
from math import comb

import numpy as np
from freshrank.v1.events_pb2 import DEGRADATION_NONE, Impression, ImpressionItem
from numpy.typing import NDArray

from services.common.spec import Arrays
from services.gateway import rerank
from services.publisher.judges import Judge
from services.publisher.offpolicy import Slots
from services.publisher.replay import Closed
from tests.publisher.exports import SPEC

Floats = NDArray[np.float64]


@dataclass
class Known:
    """Places with five items each, whose clicks and chances of being shown are known."""

    places: int = 400
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.click = self.chance.beta(2, 5, (self.places, 5))
        self.shown = self.chance.dirichlet(np.full(5, 2.0), self.places) * 0.75 + 0.05
        self.wanted = self.chance.integers(0, 5, self.places)
        self.truth = float(self.click[np.arange(self.places), self.wanted].mean())

    def log(self, seed: int, guess: Floats) -> Slots:
        """What is logged when every place is answered once; `guess` [places, 5] of clicks."""
        chance, each = np.random.default_rng(seed), np.arange(self.places)
        item = (chance.random((self.places, 1)) > self.shown.cumsum(1)).sum(1)
        return Slots(
            unit=each,
            reward=(chance.random(self.places) < self.click[each, item]).astype(float),
            propensity=self.shown[each, item],
            target=(item == self.wanted).astype(float),
            guess=guess[each, item],
            expected=guess[each, self.wanted],
        )


class FirstFeature:
    """A model whose click probability is an item's first feature."""

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        """Scores [B, N, heads]."""
        return np.repeat(np.nan_to_num(arrays["item"][..., :1]), len(SPEC.heads), axis=2)


class Constant:
    """A model that cannot tell items apart."""

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        """Scores [B, N, heads]."""
        return np.full((*arrays["item"].shape[:2], len(SPEC.heads)), 0.2, np.float32)


FIRST = Judge(FirstFeature(), SPEC, {"click": 1.0})
CONSTANT = Judge(Constant(), SPEC, {"click": 1.0})


@dataclass
class Page:
    """One shopper's candidates, asked for again and again; ordered by what is nearly their own clicks."""

    candidates: int = 30
    size: int = 6
    share: float = 0.3
    unshown: int = 8
    weighted: bool = False
    """Some candidates are drawn up to ten times as often as others."""
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def __post_init__(self) -> None:
        self.click = self.chance.beta(2, 5, self.candidates)
        self.model = np.clip(self.click + self.chance.normal(0, 0.15, self.candidates), 0.01, 0.99)
        self.score = self.click + self.chance.normal(0, 0.1, self.candidates)
        self.order = np.argsort(-self.score)
        self.weights = np.geomspace(0.3, 3, self.candidates).astype(np.float32) if self.weighted else None

    def recommended(self, seed: int) -> Closed:
        """An answer as the gateway gives and logs it, with its clicks."""
        shown = rerank.explore(self.order, self.size, self.share, seed, self.weights)
        sample = rerank.unshown(self.order, shown.order, self.unshown, seed)
        return self._closed(seed, shown, sample, self.click[shown.order], closed_loop=True)

    def shuffled(self, seed: int) -> Closed:
        """The first candidates as a caller's list; places are looked at less and less."""
        shown = rerank.shuffled(np.arange(self.size), self.share, seed)
        return self._closed(seed, shown, [], self.click[shown.order] * self.seen, closed_loop=False)

    @property
    def seen(self) -> Floats:
        """How likely each place is looked at."""
        return 1 / (1 + np.arange(self.size))

    def best_of(self, m: int) -> float:
        """Click probability of the best, by the model, of m uniform ones of those not on the page."""
        pool = self.order[self.size :]
        ranked, n = pool[np.argsort(-self.model[pool])], len(pool)
        return sum(comb(n - 1 - k, m - 1) / comb(n, m) * self.click[i] for k, i in enumerate(ranked.tolist()))

    def best_of_drawn(self, m: int, rounds: int = 20_000) -> float:
        """The same of one drawn by its weight and m - 1 uniform ones of those left, by so many draws of a handful."""
        assert self.weights is not None
        pool, chance = self.order[self.size :], np.random.default_rng(3)
        first = chance.choice(len(pool), rounds, p=self.weights[pool] / self.weights[pool].sum(dtype=np.float64))
        keys = chance.random((rounds, len(pool)))
        keys[np.arange(rounds), first] = -1
        best = [max(pool[row], key=lambda place: self.model[place]) for row in np.argsort(keys)[:, :m]]
        return float(self.click[best].mean())

    def _closed(self, seed: int, shown: rerank.Shown, sample: list[int], click: Floats, closed_loop: bool) -> Closed:
        places = [*shown.order.tolist(), *sample]
        impression = Impression(
            impression_id=f"{seed:032x}", user_id="ada", degradation=DEGRADATION_NONE, closed_loop=closed_loop,
            item_feature_ids=[SPEC.item_features[0].id],
        )  # fmt: skip
        for number, place in enumerate(places):
            here = number < len(shown.order)
            impression.items.append(
                ImpressionItem(
                    item_id=f"item-{place}",
                    position=number,
                    score=self.score[place],
                    shown=here,
                    features=[self.model[place]],
                    propensity=_chance(shown, number, place),
                    explored=bool(here and shown.explored is not None and shown.explored[number]),
                )  # fmt: skip
            )
        clicks = np.random.default_rng((seed, 7)).random(len(click)) < click
        return Closed(impression, tuple(range(len(click))), tuple(clicks.astype(int).tolist()), ("click",))


def _chance(shown: rerank.Shown, number: int, place: int) -> float:
    if number < len(shown.order):
        return 0.0 if shown.propensity is None else float(shown.propensity[number])
    return 0.0 if shown.drawable is None else float(shown.drawable[place])
