"""Ratings by known features: a small linear model of each user and each item, kept by a Kalman filter.

A regression-based factor model (Agarwal and Chen, 2009) whose loadings are the given features: what is learned of a
user is how that user departs from everybody in level, in taste for popular and for well-rated items and for every
item feature; of an item, its level and how it departs for every user feature. Each is a Gaussian with full covariance
that a rating corrects in closed form (Kalman, 1960), so that three ratings of a new user already count for what they
are worth; the covariance grows a little with every rating and after a pause, since tastes drift (Koren, 2010). User and
item blocks are taken as independent of each other (assumed-density filtering).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.trainer.keyindex import Keys, Slots
from services.trainer.ratings.factorisation import Floats, Times, check, wanted
from services.trainer.ratings.keyed_rows import Arrays, KeyedRows, prefixed, within

LEADING = 3
"""Inputs of a user's block before the item's features: level, popularity, the item's own level."""

PARTS = 5
"""Columns of the parts before the features."""

SEEN = 3


@dataclass(frozen=True)
class EffectsConfig:
    """Deviations before anything is known, and variances by which that grows. In units of the rating."""

    item_features: int = 0
    user_features: int = 0
    user_level: float = 0.8
    user_popularity: float = 0.29
    user_scale: float = 0.39
    """Deviation of a user's weight of the item's own level: some spread their ratings further than others."""
    user_taste: float = 0.44
    """Deviation of a user's weight of each item feature."""
    item_level: float = 0.5
    item_taste: float = 0.15
    noise: float = 1.35
    """Variance of a rating about its expectation."""
    level_drift: float = 0.005
    taste_drift: float = 0.00018
    item_drift: float = 0.00003
    pause_s: float = 1800.0
    pause_drift: float = 0.01
    """Added to the variance of a user's level when a rating comes later than `pause_s` after the last one."""
    popularity_rate: float = 0.001
    """Of the running mean of log counts that popularity is measured from."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0 or (field.name == "noise" and value == 0):
                raise InvalidInput(field.name, "out_of_range", "must be finite and not negative, noise positive")


class Effects:
    """Levels and tastes of users and items. A row costs 8 · (LEADING + features)² bytes."""

    def __init__(self, config: EffectsConfig | None = None) -> None:
        self.config = c = config or EffectsConfig()
        leading = [c.user_level, c.user_popularity, c.user_scale]
        self._user_prior = np.diag(np.square(leading + [c.user_taste] * c.item_features))
        self._item_prior = np.diag(np.square([c.item_level] + [c.item_taste] * c.user_features))
        self._user_drift = np.array([c.level_drift, 0, 0] + [c.taste_drift] * c.item_features)
        self._item_drift = np.array([c.item_drift] + [0.0] * c.user_features)
        self._noise = np.array([c.noise, c.pause_s * 1e6, c.pause_drift, c.popularity_rate])
        self.users = KeyedRows(lambda keys: _blank(len(keys), self._user_prior, c.user_features))
        self.items = KeyedRows(lambda keys: _blank(len(keys), self._item_prior, c.item_features))
        self._totals = np.zeros(3)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.users.nbytes + self.items.nbytes

    def describe_users(self, keys: Keys, features: Floats) -> None:
        """Say what is known of users, [n, user_features], of size about 1; those not described have zeros."""
        _describe(self.users, keys, features, self.config.user_features)

    def describe_items(self, keys: Keys, features: Floats) -> None:
        """Say what is known of items, [n, item_features], of size about 1; those not described have zeros."""
        _describe(self.items, keys, features, self.config.item_features)

    def predict(self, users: Keys, items: Keys) -> Floats:
        """Ratings [n] of pairs; unknown ids count as those of whom nothing is known."""
        return expected(self.predict_parts(users, items))

    def learn(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> Floats:
        """Learn ratings [n] in their order; returns what each was predicted to be just before it was learned.

        Raises:
            InvalidInput: when lengths differ or a rating is not finite; nothing is learned then.
        """
        return expected(self._learn(users, items, ratings, times_us)[0])

    def predict_parts(self, users: Keys, items: Keys) -> Floats:
        """What the prediction is made of, [n, 5 + item_features + user_features].

        Sum of effects, log count of user and of item, relative popularity of the item, mean of all ratings, features.
        """
        check(users, items)
        k, names = kernels(), ("mean", "features", "seen")
        user, item = self.users.gather(users, names), self.items.gather(items, names)
        out, each, none = np.empty((len(users), PARTS)), np.arange(len(users)), np.zeros((0, 0, 0))
        halves = [k.Half(half["mean"], none, half["features"], half["seen"]) for half in (user, item)]
        k.predict_effects(each, each, *halves, self._totals, out)
        return np.hstack([out, item["features"], user["features"]])

    def learn_parts(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> Floats:
        """As `learn`, with the columns of `predict_parts`."""
        out, u, i = self._learn(users, items, ratings, times_us)
        return np.hstack([out, self.items["features"][i], self.users["features"][u]])

    def state(self) -> Arrays:
        """All that was learned and described, as copies."""
        tables = prefixed("users", self.users.state()) | prefixed("items", self.items.state())
        return tables | {"totals": self._totals.copy()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, bit for bit.

        Raises:
            CorruptState: when an array is missing or does not fit this configuration; use another model then.
        """
        totals = wanted(state, "totals", (3,), np.float64)
        self.users.load(within("users", state))
        self.items.load(within("items", state))
        self._totals = totals

    def _learn(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> tuple[Floats, Slots, Slots]:
        ratings = check(users, items, ratings, times_us)
        k, u, i = kernels(), self.users.admit(users), self.items.admit(items)
        halves = [k.Half(t["mean"], t["cov"], t["features"], t["seen"]) for t in (self.users, self.items)]
        out, times = np.empty((len(users), PARTS)), np.ascontiguousarray(times_us, np.int64)
        k.learn_effects(
            u, i, ratings, times, *halves, self._totals, self._user_drift, self._item_drift, self._noise, out
        )
        return out, u, i


def expected(parts: Floats) -> Floats:
    """Predictions [n] from parts: mean and sum of effects."""
    return parts[:, PARTS - 1] + parts[:, 0]


def kernels() -> ModuleType:
    """The compiled loops; numba is imported here and not before."""
    from services.trainer.ratings import effects_kernels

    return effects_kernels


def _blank(count: int, prior: Floats, features: int) -> Arrays:
    return {
        "mean": np.zeros((count, len(prior))),
        "cov": np.broadcast_to(prior, (count, *prior.shape)).copy(),
        "features": np.zeros((count, features)),
        "seen": np.zeros((count, SEEN)),
    }


def _describe(table: KeyedRows, keys: Keys, features: Floats, count: int) -> None:
    if features.shape != (len(keys), count) or not np.isfinite(features).all():
        raise InvalidInput("features", "wrong_shape", f"must be finite, {count} for each of {len(keys)} keys")
    slots = table.admit(keys)
    table["features"][slots] = features
