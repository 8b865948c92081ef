"""Matrix factorisation learned one interaction at a time, in the order of the log: ratings, and clicks alone.

A rating is mean + user's bias + item's bias + product of their factors (Koren, Bell and Volinsky, 2009). Every rating
is predicted before it is learned, so that the predictions are a fair test of what was known. Shoppers act in bursts:
a step on many ratings at once reads rows that are already old, which is why nothing here is batched.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState, InvalidInput
from services.trainer.keyindex import Keys
from services.trainer.ratings.keyed_rows import Arrays, KeyedRows, prefixed, start_rows, within
from services.trainer.ratings.row_optimisers import FTRL, PA_KIND, SGD, PassiveAggressive, RowOptimiser

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

_USERS, _ITEMS = 0, 1
"""Added to the seed, so that a user and an item of one key start from different rows."""


@dataclass(frozen=True)
class FactorConfig:
    """How rows are made and learned."""

    dim: int = 10
    """Factors of a row; 0 = biases alone."""
    optimiser: RowOptimiser = field(default_factory=SGD)
    bias_share: float = 0.5
    """Rate of the biases as a share of the rate of the factors; without meaning for passive-aggressive steps."""
    sigma: float = 0.1
    """Deviation of the factors a row starts from; biases start from 0."""
    seed: int = 0
    replay: int = 0
    """Ratings out of `memory` that are learned again after each new one (reservoirs as in Diaz-Aviles et al., 2012)."""
    memory: int = 131_072
    """Newest ratings kept to be learned again, 24 bytes each; nothing is kept when `replay` is 0."""

    def __post_init__(self) -> None:
        for name, least in (("dim", 0), ("seed", 0), ("replay", 0), ("memory", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(name, "out_of_range", f"must be at least {least}")
        for name in ("bias_share", "sigma"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidInput(name, "out_of_range", "must be finite and not negative")


class _Rows:
    """What both models share: rows of users and items, the optimiser, and the state of chance."""

    def __init__(self, config: FactorConfig) -> None:
        self.config = config
        self.users = KeyedRows(lambda keys: self._blank(keys, _USERS))
        self.items = KeyedRows(lambda keys: self._blank(keys, _ITEMS))
        self._seed = np.array([config.seed], np.uint64)
        self._numbers = config.optimiser.numbers()

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self.users.nbytes + self.items.nbytes

    def state(self) -> Arrays:
        """All that was learned, as copies."""
        return (
            prefixed("users", self.users.state()) | prefixed("items", self.items.state()) | {"seed": self._seed.copy()}
        )

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, bit for bit.

        Raises:
            CorruptState: when an array is missing or does not fit this configuration; use another model then.
        """
        seed = wanted(state, "seed", (1,), np.uint64)
        self.users.load(within("users", state))
        self.items.load(within("items", state))
        self._seed = seed

    def _parts(self, users: Keys, items: Keys, mean: float) -> Floats:
        p, q = (table.gather(keys, ("rows",))["rows"] for table, keys in ((self.users, users), (self.items, items)))
        out, each = np.empty((len(users), 3)), np.arange(len(users))
        kernels().parts_of(each, each, p, q, mean, out)
        return out

    def _memories(self, table: KeyedRows) -> tuple[Floats, Floats, Floats]:
        return table["rows"], table["squares"], table["sums"]

    def _blank(self, keys: Keys, side: int) -> Arrays:
        c = self.config
        rows = np.zeros((len(keys), 1 + c.dim))
        rows[:, 1:] = start_rows(keys, c.dim, c.sigma, 2 * c.seed + side)
        none = np.zeros((len(keys), 0))
        squares = none if isinstance(c.optimiser, SGD | PassiveAggressive) else np.zeros_like(rows)
        sums = -rows * c.optimiser.beta / c.optimiser.rate if isinstance(c.optimiser, FTRL) else none
        return {"rows": rows, "squares": squares, "sums": sums}


class Factorisation(_Rows):
    """Ratings: squared error, or the passive-aggressive margin."""

    def __init__(self, config: FactorConfig | None = None) -> None:
        super().__init__(config or FactorConfig())
        self._total = np.zeros(2)
        room = self.config.memory if self.config.replay else 0
        self._old_slots, self._old_ratings = np.zeros((room, 2), np.int64), np.zeros(room)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of the ratings kept."""
        return super().nbytes + self._old_slots.nbytes + self._old_ratings.nbytes

    def predict(self, users: Keys, items: Keys) -> Floats:
        """Ratings [n] of pairs; unknown ids count with the rows they would start from."""
        return _sum(self.predict_parts(users, items))

    def learn(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> Floats:
        """Learn ratings [n] in their order; returns what each was predicted to be just before it was learned.

        Raises:
            InvalidInput: when lengths differ or a rating is not finite; nothing is learned then.
        """
        return _sum(self.learn_parts(users, items, ratings, times_us))

    def predict_parts(self, users: Keys, items: Keys) -> Floats:
        """Mean, biases and product of factors [n, 3]: their sum is the prediction."""
        check(users, items)
        return self._parts(users, items, float(self._total[1]))

    def learn_parts(self, users: Keys, items: Keys, ratings: Floats, times_us: Times) -> Floats:
        """As `learn`, with the predictions in their parts [n, 3]. Times are not used, only the order."""
        ratings = check(users, items, ratings, times_us)
        u, i, out, c = self.users.admit(users), self.items.admit(items), np.empty((len(users), 3)), self.config
        sides = self._memories(self.users), self._memories(self.items)
        memory = self._old_slots, self._old_ratings, c.replay, self._seed
        optimiser = c.optimiser.kind, self._numbers, c.bias_share
        kernels().learn_ratings(u, i, ratings, *optimiser, *sides, self._total, *memory, out)
        return out

    def state(self) -> Arrays:
        """All that was learned, as copies."""
        kept = min(int(self._total[0]), len(self._old_ratings))
        old = {"old_slots": self._old_slots[:kept].copy(), "old_ratings": self._old_ratings[:kept].copy()}
        return super().state() | {"total": self._total.copy()} | old

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, bit for bit.

        Raises:
            CorruptState: when an array is missing or does not fit this configuration; use another model then.
        """
        total = wanted(state, "total", (2,), np.float64)
        kept = min(int(total[0]), len(self._old_ratings))
        slots = wanted(state, "old_slots", (kept, 2), np.int64)
        ratings = wanted(state, "old_ratings", (kept,), np.float64)
        super().load(state)
        if ((slots < 0) | (slots >= [len(self.users), len(self.items)])).any():
            raise CorruptState("old_slots: names rows that are not there")
        self._total, self._old_slots[:kept], self._old_ratings[:kept] = total, slots, ratings


class ImplicitFactorisation(_Rows):
    """Interactions without ratings: each is learned against items drawn evenly from those known so far.

    `bpr` learns item above drawn item (Bayesian personalised ranking; Rendle et al., 2009), `log` learns 1 for the item
    and 0 for the drawn ones by log-loss. A drawn item may be one the user took earlier: a log of clicks cannot say.

    Raises:
        InvalidInput: for an unknown loss, no negatives or an optimiser without a gradient.
    """

    def __init__(
        self, config: FactorConfig | None = None, loss: Literal["bpr", "log"] = "bpr", negatives: int = 4
    ) -> None:
        super().__init__(config or FactorConfig())
        if loss not in ("bpr", "log"):
            raise InvalidInput("loss", "unknown", "must be bpr or log")
        if negatives < 1:
            raise InvalidInput("negatives", "out_of_range", "must be at least 1")
        if self.config.optimiser.kind == PA_KIND or self.config.replay:
            raise InvalidInput("config", "unsupported", "passive-aggressive steps and replay are for ratings only")
        self.loss, self.negatives = loss, negatives

    def predict(self, users: Keys, items: Keys) -> Floats:
        """Scores [n]: log-odds for `log`, only their order matters for `bpr`."""
        check(users, items)
        return _sum(self._parts(users, items, 0.0))

    def learn(self, users: Keys, items: Keys) -> Floats:
        """Learn interactions in their order; returns the score of each just before it was learned."""
        check(users, items)
        before, c = len(self.items), self.config
        u, i, out = self.users.admit(users), self.items.admit(items), np.empty(len(users))
        known = np.maximum.accumulate(np.maximum(i, before - 1)) + 1
        sides = self._memories(self.users), self._memories(self.items)
        what = self.loss == "bpr", self.negatives, c.optimiser.kind, self._numbers, c.bias_share
        kernels().learn_positives(u, i, known, *what, *sides, self._seed, out)
        return out


def kernels() -> ModuleType:
    """The compiled loops; numba is imported here and not before."""
    from services.trainer.ratings import factorisation_kernels

    return factorisation_kernels


def check(users: Keys, items: Keys, ratings: Floats | None = None, times_us: Times | None = None) -> Floats:
    """Ratings as the kernels want them, empty without any.

    Raises:
        InvalidInput: when a column is not [n] like the users, keys are not 64-bit or a rating is not finite.
    """
    for name, column in (("users", users), ("items", items), ("ratings", ratings), ("times_us", times_us)):
        if column is not None and column.shape != (len(users),):
            raise InvalidInput(name, "wrong_shape", f"must be one column of {len(users)} values")
        if name in ("users", "items") and column is not None and column.dtype != np.uint64:
            raise InvalidInput(name, "wrong_type", "must be 64-bit keys (ids.keys_of)")
    values = np.ascontiguousarray([] if ratings is None else ratings, np.float64)
    if not np.isfinite(values).all():
        raise InvalidInput("ratings", "not_finite", "must be finite")
    return values


def wanted(state: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A copy of an array of a state.

    Raises:
        CorruptState: when it is missing, or of another shape or type.
    """
    array = state.get(name)
    if array is None or array.shape != shape or array.dtype != dtype:
        raise CorruptState(f"{name}: must be of shape {shape} and type {np.dtype(dtype)}")
    return array.copy()


def _sum(parts: Floats) -> Floats:
    return parts[:, 0] + parts[:, 1] + parts[:, 2]
