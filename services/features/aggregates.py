"""The functions: what they keep per tile, how two partial states merge, and what value comes out.

Each function is made of components, columns of float64 in which a row's contribution is added:

    count   number of rows that have a value          merged by addition
    sum     sum of the values                          by addition
    min     smallest value, +inf when there is none    by minimum
    max     largest value, -inf when there is none     by maximum
    moments number, mean, sum of squared deviations    by the rule of Chan, Golub and LeVeque (1979)
    seen    distinct values: +1 at the newest tile of each value, by addition (see distinct.py)

initialize = `identity`, add and merge = `reduce`, result = `RESULTS`. Merging is associative and commutative, so
values do not depend on the order of arrival; last, last_n (recent.py) and top_k (top.py) keep rows instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.definitions import FeatureDefinition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_OPS = ("add", "min", "max", "moments")
_OP = {"count": "add", "sum": "add", "seen": "add", "min": "min", "max": "max", "moments": "moments"}
_IDENTITY = {"add": 0.0, "min": np.inf, "max": -np.inf, "moments": 0.0}


@dataclass(frozen=True)
class Component:
    """One part of a function's state: over the values of a column, in the rows that pass all tests."""

    kind: str
    column: str
    tests: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns it takes."""
        return 3 if self.kind == "moments" else 1


def components(definition: FeatureDefinition) -> tuple[Component, ...]:
    """What a definition is made of; equal components of several features are kept once."""
    column, base = definition.column, _tests(definition.where)
    if definition.function == "ratio":
        parts = (definition.numerator, definition.denominator)
        return tuple(Component("count", column, _tests(definition.where, part)) for part in parts)
    kinds = _COMPONENTS[definition.function]
    return tuple(Component(kind, column, base) for kind in kinds)


_COMPONENTS: dict[str, tuple[str, ...]] = {
    "count": ("count",), "sum": ("sum",), "mean": ("sum", "count"), "min": ("min",), "max": ("max",),
    "std": ("moments",), "count_distinct": ("seen",), "decay": ("count",),
}  # fmt: skip


def _tests(*parts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in parts if part)) or ("",)


class Layout:
    """Where components lie in a matrix of partial states [rows, width]: additions, minima, maxima, moments."""

    def __init__(self, parts: Sequence[Component]) -> None:
        distinct = dict.fromkeys(parts)
        self.parts = tuple(sorted(distinct, key=lambda part: _OPS.index(_OP[part.kind])))
        self.place: dict[Component, int] = {}
        self._spans: dict[str, slice] = {}
        at = 0
        for op in _OPS:
            start = at
            for part in (part for part in self.parts if _OP[part.kind] == op):
                self.place[part] = at
                at += part.width
            self._spans[op] = slice(start, at)
        self.width = at
        self.identity: Floats = np.concatenate(
            [np.full(span.stop - span.start, _IDENTITY[op]) for op, span in self._spans.items()]
        )

    def initial(self, rows: int) -> Floats:
        """States of nothing, [rows, width]."""
        return np.repeat(self.identity[None], rows, axis=0)

    def reduce(self, states: Floats, starts: Ints) -> Floats:
        """Merge the states of each group of rows; groups begin at `starts`, none is empty."""
        if not len(starts):
            return self.initial(0)
        out = np.empty((len(starts), self.width))
        for op, ufunc in (("add", np.add), ("min", np.minimum), ("max", np.maximum)):
            span = self._spans[op]
            if span.stop > span.start:
                out[:, span] = ufunc.reduceat(states[:, span], starts, axis=0)
        span = self._spans["moments"]
        for at in range(span.start, span.stop, 3):
            out[:, at : at + 3] = _merged_moments(states[:, at : at + 3], starts)
        return out


def _merged_moments(states: Floats, starts: Ints) -> Floats:
    count, mean, squares = states[:, 0], states[:, 1], states[:, 2]
    total = np.add.reduceat(count, starts)
    whole = np.add.reduceat(count * mean, starts) / np.maximum(total, 1)
    lengths = np.diff(np.append(starts, len(states)))
    shift = mean - np.repeat(whole, lengths)
    return np.stack([total, whole, np.add.reduceat(squares + count * shift * shift, starts)], axis=1)


Result = Callable[[Sequence[Floats], FeatureDefinition], Floats]
"""State columns of a definition's components over its window, [n] each (moments: [n, 3]) -> values, NaN for null."""


def _share(parts: Sequence[Floats], definition: FeatureDefinition) -> Floats:
    above = parts[0] + definition.prior * definition.prior_weight
    return divided(above, parts[1] + definition.prior_weight)


def divided(above: Floats, below: Floats) -> Floats:
    """Quotients; null where there is nothing below."""
    out: Floats = np.full(len(below), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _finite(parts: Sequence[Floats], _: FeatureDefinition) -> Floats:
    return np.where(np.isfinite(parts[0]), parts[0], np.nan)


def _deviation(parts: Sequence[Floats], _: FeatureDefinition) -> Floats:
    return np.sqrt(divided(parts[0][:, 2], parts[0][:, 0]))


RESULTS: dict[str, Result] = {
    "count": lambda parts, _: parts[0],
    "count_distinct": lambda parts, _: parts[0],
    "sum": lambda parts, _: parts[0],
    "mean": lambda parts, _: divided(parts[0], parts[1]),
    "min": _finite,
    "max": _finite,
    "std": _deviation,
    "ratio": _share,
    "decay": lambda parts, _: parts[0],
}
"""Counts, sums and decayed counts of nothing are 0; means, extremes and deviations of nothing are null; std is that of
the population; a ratio without prior is null when its denominator is 0. decay gets its weighted count."""


def contribution(part: Component, values: NDArray[Any], mask: NDArray[np.bool_]) -> Floats:
    """State of single rows, [rows, width]: the identity where the mask is false."""
    if part.kind == "count":
        return mask.astype(np.float64)[:, None]
    picked = np.where(mask, values, 0).astype(np.float64)
    if part.kind == "sum":
        return picked[:, None]
    if part.kind == "moments":
        return np.stack([mask.astype(np.float64), picked, np.zeros(len(picked))], axis=1)
    return np.where(mask, picked, _IDENTITY[_OP[part.kind]])[:, None]
