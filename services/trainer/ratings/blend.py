"""Factorisation and known features together: what each says is weighed by how well it has said it so far.

A last linear model, learned by recursive least squares on what `Effects` missed (stacking; Wolpert, 1992), sees the
predictions of both, how often user and item were rated, and the features themselves: the weights common to everybody.
Each model predicts a rating before it learns it, and so does the last one: no rating has a part in its own prediction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.trainer.keyindex import Keys
from services.trainer.ratings.effects import PARTS, Effects, EffectsConfig, expected, kernels
from services.trainer.ratings.factorisation import FactorConfig, Factorisation, Floats, Times, wanted
from services.trainer.ratings.keyed_rows import Arrays, prefixed, within
from services.trainer.ratings.row_optimisers import SGD

OWN = 7
"""Inputs of the last model before the features: constant, four of `Effects`, biases and product of `Factorisation`."""


@dataclass(frozen=True)
class BlendConfig:
    """The two models, and the last one."""

    effects: EffectsConfig = field(default_factory=EffectsConfig)
    factors: FactorConfig = field(
        default_factory=lambda: FactorConfig(optimiser=SGD(0.02, 0.19), bias_share=1.65, replay=10)
    )
    variance: float = 0.013
    """Of each weight of the last model before anything is known."""
    noise: float = 1.35
    """Variance of a rating about its expectation."""

    def __post_init__(self) -> None:
        for name in ("variance", "noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InvalidInput(name, "out_of_range", "must be finite and positive")


class Blend:
    """`Effects`, `Factorisation` and the weights between them."""

    def __init__(self, config: BlendConfig | None = None) -> None:
        self.config = c = config or BlendConfig()
        self.effects, self.factors = Effects(c.effects), Factorisation(c.factors)
        width = OWN + c.effects.item_features + c.effects.user_features
        self._weights, self._cov = np.zeros(width), np.eye(width) * c.variance

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.effects.nbytes + self.factors.nbytes + self._cov.nbytes

    def predict(self, users: Keys, items: Keys) -> Floats:
        """Ratings [n] of pairs; unknown ids count as those of whom nothing is known."""
        effects, factors = self.effects.predict_parts(users, items), self.factors.predict_parts(users, items)
        return expected(effects) + _inputs(effects, factors) @ self._weights

    def learn(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> Floats:
        """Learn ratings [n] in their order; returns what each was predicted to be just before it was learned.

        Raises:
            InvalidInput: when lengths differ or a rating is not finite; nothing is learned then.
        """
        effects = self.effects.learn_parts(users, items, ratings, times_us)
        factors = self.factors.learn_parts(users, items, ratings, times_us)
        values, out = np.ascontiguousarray(ratings, np.float64), np.empty(len(users))
        last = self._weights, self._cov, self.config.noise
        kernels().learn_blend(expected(effects), _inputs(effects, factors), values, *last, out)
        return out

    def state(self) -> Arrays:
        """All that was learned and described, as copies."""
        parts = prefixed("effects", self.effects.state()) | prefixed("factors", self.factors.state())
        return parts | {"weights": self._weights.copy(), "cov": self._cov.copy()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, bit for bit.

        Raises:
            CorruptState: when an array is missing or does not fit this configuration; use another model then.
        """
        weights = wanted(state, "weights", self._weights.shape, np.float64)
        cov = wanted(state, "cov", self._cov.shape, np.float64)
        self.effects.load(within("effects", state))
        self.factors.load(within("factors", state))
        self._weights, self._cov = weights, cov


def _inputs(effects: Floats, factors: Floats) -> Floats:
    """What the last model sees, [n, OWN + features]."""
    return np.hstack([np.ones((len(effects), 1)), effects[:, : PARTS - 1], factors[:, 1:], effects[:, PARTS:]])
