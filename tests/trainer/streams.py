"""Streams of samples as a learner would draw them, with shifts planted in them."""

from dataclasses import dataclass, field

import numpy as np

from services.trainer.distributions import CANDIDATES, Sample

NAMES = ("age", "clicks", "price", "ctr", "rank")
STEP = 20


@dataclass
class Stream:
    """Steps of 20 impressions: some shoppers come often, few items are known well, most impressions have no click."""

    seed: int = 0
    price: float = 1.0
    click: float = 0.3
    missing: float = 0.1
    shoppers: int = 2_000
    made: int = 0
    chance: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(self.seed)
        self.known = self.chance.gamma(2, 10, (self.shoppers, 1)), self.chance.poisson(3, (self.shoppers, 1))
        self.visits = self.chance.dirichlet(np.full(self.shoppers, 5.0))

    def step(self, impressions: int = STEP) -> Sample:
        """The next impressions."""
        who = self.chance.choice(self.shoppers, impressions, p=self.visits)
        shown = impressions * CANDIDATES
        ctr = self.chance.beta(2, 30, shown)
        ctr[self.chance.random(shown) < self.missing] = np.nan
        item = np.stack([self.chance.gamma(2, 20, shown) * self.price, ctr, self.chance.integers(1, 20, shown)], 1)
        numbers = range(self.made, self.made + impressions)
        self.made += impressions
        clicked = frozenset(f"{k}" for k in numbers if self.chance.random() < self.click)
        return Sample(
            NAMES, np.hstack([known[who] for known in self.known]).astype(np.float32), item.astype(np.float32), clicked
        )
