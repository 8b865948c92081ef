"""Guard metrics: what an arm may not give up for its clicks. Coverage, diversity, the share of the top item, faults.

Coverage is compared at equal numbers of results shown, by rarefaction: the distinct items expected in a sample of m,
sum over items of 1 - (1 - n/N)^m (Hurlbert, 1971, with replacement), because the arms' shares differ.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.publisher.checks import Check, at_least, at_most


@dataclass(frozen=True)
class GuardBounds:
    """How far a challenger may fall behind the incumbent."""

    coverage: float = 0.8
    """Distinct items, as a share of the incumbent's."""
    diversity: float = 0.8
    """Distinct categories per result, as a share of the incumbent's."""
    top_item: float = 2.0
    """Share of the item shown most, over the incumbent's; a share below `top_item_free` is always allowed."""
    top_item_free: float = 0.05
    degraded: float = 0.02
    """Share of answers from the lower rungs, beyond the incumbent's."""


@dataclass
class Tally:
    """What one arm has shown."""

    items: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    diversity: float = 0.0
    """Sum over lists of distinct categories over results."""
    degraded: int = 0

    def add(self, items: list[str], categories: list[str], degraded: bool) -> None:
        """Take one list in."""
        self.items.update(items)
        self.lists += 1
        self.diversity += len(set(categories)) / max(1, len(categories))
        self.degraded += degraded

    def merge(self, other: "Tally") -> None:
        """Take another tally in."""
        self.items.update(other.items)
        self.lists += other.lists
        self.diversity += other.diversity
        self.degraded += other.degraded

    @property
    def shown(self) -> int:
        """Results shown."""
        return self.items.total()

    def coverage(self, sample: int) -> float:
        """Distinct items expected among `sample` results."""
        shares = np.fromiter(self.items.values(), np.float64) / max(1, self.shown)
        return float(-np.expm1(sample * np.log1p(-np.minimum(shares, 1 - 1e-12))).sum())

    def figures(self, sample: int) -> dict[str, float]:
        """Its guard metrics."""
        return {
            "coverage": self.coverage(sample),
            "diversity": self.diversity / max(1, self.lists),
            "top_item": max(self.items.values(), default=0) / max(1, self.shown),
            "degraded": self.degraded / max(1, self.lists),
        }

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**vars(self), "items": dict(self.items)}

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> "Tally":
        """The inverse."""
        return Tally(Counter(data["items"]), data["lists"], data["diversity"], data["degraded"])


def compared(challenger: Tally, incumbent: Tally) -> dict[str, float]:
    """Guard metrics of both, over equal numbers of results."""
    sample = min(challenger.shown, incumbent.shown)
    theirs = {f"{name}_incumbent": value for name, value in incumbent.figures(sample).items()}
    return challenger.figures(sample) | theirs


def checks(figures: Mapping[str, float], bounds: GuardBounds) -> list[Check]:
    """The guards as checks."""
    top = max(bounds.top_item * figures["top_item_incumbent"], bounds.top_item_free)
    return [
        at_least("coverage", figures["coverage"], bounds.coverage * figures["coverage_incumbent"], "distinct items"),
        at_least("diversity", figures["diversity"], bounds.diversity * figures["diversity_incumbent"], "categories"),
        at_most("top_item", figures["top_item"], top, "share of the item shown most"),
        at_most("degraded", figures["degraded"], figures["degraded_incumbent"] + bounds.degraded, "share of answers"),
    ]
