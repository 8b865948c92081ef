"""The order of an answer: weighted objectives, variety of categories, exploration with known probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def objective(scores: Floats, weights: Floats) -> Floats:
    """One score per candidate [n] from the probabilities per head [n, heads]."""
    total: Floats = scores @ weights
    return total


def by_score(score: Floats, prior_rank: Ints) -> Ints:
    """Places by score, highest first; equal scores keep the caller's order, then the given one.

    >>> by_score(np.array([.5, .9, .5], np.float32), np.array([2, 3, 1]))
    array([1, 2, 0])
    """
    last = np.where(prior_rank > 0, prior_rank, np.iinfo(np.int64).max)
    return np.lexsort((np.arange(len(score)), last, -score.astype(np.float64)))


def callers_order(prior_rank: Ints) -> Ints:
    """The caller's own order; candidates without a place come last, as given."""
    last = np.where(prior_rank > 0, prior_rank, np.iinfo(np.int64).max)
    return np.lexsort((np.arange(len(prior_rank)), last))


def vary(order: Ints, category: Ints, most: int, window: int) -> Ints:
    """At most `most` of one category among any `window` results in a row, where others are left; the rest keeps order.

    `category`: code per place, -1 = none (never capped); `most` 0 = off.

    >>> vary(np.array([0, 1, 2, 3]), np.array([7, 7, 7, 8]), 2, 3)
    array([0, 1, 3, 2])
    """
    if not most or not len(order):
        return order
    out: list[int] = []
    waiting = order.tolist()
    codes = category.tolist()
    while waiting:
        near = [codes[place] for place in out[-(window - 1) :]] if window > 1 else []
        pick = next((i for i, p in enumerate(waiting) if codes[p] < 0 or near.count(codes[p]) < most), 0)
        out.append(waiting.pop(pick))
    return np.array(out, np.int64)


@dataclass(frozen=True)
class Shown:
    """What an answer shows and how likely that was."""

    order: Ints
    propensity: Floats | None
    """[shown] probability of the item at its position under the policy; None: the order was deterministic."""
    explored: NDArray[np.bool_] | None
    drawable: Floats | None = None
    """[candidates] probability of each place of the candidates to be drawn for the first position that is explored."""


def uncertain(clicks: Floats) -> Floats:
    """How much a look at each candidate teaches: the variance p (1 - p) of its click (uncertainty sampling; Lewis and
    Gale, 1994), mixed in equal parts with no preference, so that no candidate is ever left out. [n], 1 in the mean.

    >>> uncertain(np.array([0.5, 0.0], np.float32)).tolist()
    [1.5, 0.5]
    """
    variance = clicks * (1 - clicks)
    mean = float(variance.mean()) if len(variance) else 0.0
    return (0.5 + 0.5 * variance / mean if mean > 0 else np.ones_like(variance)).astype(np.float32)


def explore(order: Ints, shown: int, share: float, seed: int, weights: Floats | None = None) -> Shown:
    """Show the first ones, but with probability `share` per position one drawn of those left over.

    The pool of position k is every candidate not among the first `shown` and not drawn before; each is drawn in
    proportion to its `weights` [candidates], all alike without them. So the probability of a drawn item is
    share · weight / weights of the pool, and of an item on its own position 1 - share.
    """
    shown = min(shown, len(order))
    pool = order[shown:]
    if share <= 0 or not len(pool):
        return Shown(order[:shown], None, None)
    random = np.random.default_rng(seed)
    out = order[:shown].copy()
    propensity = np.full(shown, 1 - share, np.float32)
    explored = np.zeros(shown, np.bool_)
    left = np.ones(len(pool)) if weights is None else weights[pool].astype(np.float64)
    drawable = np.zeros(len(order), np.float32)
    drawable[pool] = share * left / left.sum()
    for position, drawn in enumerate((random.random(shown) < share).tolist()):
        total = left.sum()
        if total <= 0:
            propensity[position] = 1
        elif drawn:
            pick = int(np.searchsorted(np.cumsum(left), random.random() * total, side="right"))
            propensity[position] = share * left[pick] / total
            out[position], left[pick] = pool[pick], 0
            explored[position] = True
    return Shown(out, propensity, explored, drawable)


def shuffled(order: Ints, share: float, seed: int) -> Shown:
    """Show all, with probability `share` in a uniformly drawn order: for callers' candidates, where none is left out.

    The probability of an item at its position is share / n, plus 1 - share where the order by score has it too.
    """
    if share <= 0 or len(order) < 2:
        return Shown(order, None, None)
    random = np.random.default_rng(seed)
    explored = bool(random.random() < share)
    out = random.permutation(order) if explored else order
    propensity = (share / len(order) + (1 - share) * (out == order)).astype(np.float32)
    return Shown(out, propensity, np.full(len(order), explored))


@dataclass(frozen=True)
class Boosts:
    """Factors on scores that the shop sets by hand, for Recommend."""

    new: float = 1.0
    """For items published within `new_days`."""
    new_days: float = 7.0
    categories: Mapping[str, float] = field(default_factory=dict)
    """By main category."""

    def factors(self, age_days: Floats, categories: Sequence[str]) -> Floats:
        """Factor per candidate; `age_days` NaN = not known.

        >>> Boosts(new=2.0, categories={"hats": 0.5}).factors(np.array([1, 9], np.float32), ["hats", "hats"])
        array([1. , 0.5], dtype=float32)
        """
        fresh = np.where(age_days <= self.new_days, self.new, 1.0)
        named = np.array([self.categories.get(name, 1.0) for name in categories])
        factors: Floats = (fresh * named).astype(np.float32)
        return factors


def unshown(order: Ints, shown: Ints, count: int, seed: int) -> list[int]:
    """A uniform sample of candidates that were scored and not shown: for the loss, and as rivals of what was explored.

    Its chance is not that of `explore` with the same seed: else answers that explore would have samples of their own.
    """
    rest = np.setdiff1d(order, shown)
    if not len(rest) or not count:
        return []
    random = np.random.default_rng((seed, 1))
    sample: list[int] = random.choice(rest, min(count, len(rest)), replace=False).tolist()
    return sample
