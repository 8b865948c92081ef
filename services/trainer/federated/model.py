"""What goes between a coordinator and its shops, and how answers become one model. Arrays alone: no torch, no Flower.

Federated averaging (McMahan et al., 2017): dense weights are averaged by the examples they were learned from. Rows of
items are averaged key by key, by the examples that touched that key, so that an item only one shop knows keeps that
shop's row. With one answer both give that answer, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.ids import keys_of

Weights = dict[str, NDArray[np.float32]]
"""Dense weights by name."""


@dataclass(frozen=True)
class Rows:
    """Rows of n items, D values each."""

    ids: Sequence[str]
    rows: NDArray[np.float32]
    """[n, D]."""
    squares: NDArray[np.float32]
    """[n]: what their Adagrad steps have summed up."""
    seen_us: NDArray[np.int64]
    """[n]: log time of the newest sighting."""
    touched: NDArray[np.int64]
    """[n]: examples of the round that touched the row; 0 in what a coordinator sends."""

    @staticmethod
    def none(dim: int) -> "Rows":
        """No rows."""
        return Rows([], np.zeros((0, dim), np.float32), np.zeros(0, np.float32), *np.zeros((2, 0), np.int64))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Asked:
    """What a coordinator asks of a shop."""

    round: int
    """From 1. A shop that has learned it already does so again, from what it had before it."""
    messages: int
    """Of its archive after which the round ends; 0 = take the model and learn nothing."""
    weights: Weights
    items: Rows


@dataclass(frozen=True)
class Answer:
    """What a shop sends back."""

    shop: str
    examples: int
    """Learned in the round; 0 = there was nothing new."""
    log_us: int
    """The log's time behind them."""
    weights: Weights
    items: Rows
    """Those that the round touched."""
    figures: Mapping[str, float]
    """Progressive validation, of the newest impressions that are closed."""


@dataclass(frozen=True)
class Shown:
    """Who a shop is, before it is asked anything."""

    shop: str
    spec: dict[str, Any]
    """Of its examples, with row length and heads as it learns them."""
    shapes: dict[str, tuple[int, ...]]
    """Of its dense weights."""


def averaged(before: Weights, answers: Sequence[Answer]) -> Weights:
    """Mean of the answers' weights by their examples; `before` when nobody learned anything."""
    total = sum(answer.examples for answer in answers)
    if not total:
        return before
    out = {name: np.zeros(value.shape) for name, value in before.items()}
    for answer in answers:
        for name, mean in out.items():
            mean += answer.weights[name].astype(np.float64) * (answer.examples / total)
    return {name: mean.astype(np.float32) for name, mean in out.items()}


def merged(answers: Sequence[Rows]) -> Rows:
    """The rows that were touched, each the mean over those who touched it, by how often they did.

    >>> def of(name: str, value: float, touched: int) -> Rows:
    ...     one = np.ones(1, np.float32)
    ...     return Rows([name], one[:, None] * value, one, np.ones(1, np.int64), np.array([touched]))
    >>> both = merged([of("a", 1.0, 3), of("b", 7.0, 1), of("a", 2.0, 1)])
    >>> both.ids, both.rows[:, 0].tolist()
    (['a', 'b'], [1.25, 7.0])
    """
    ids = [name for answer in answers for name in answer.ids]
    touched = np.concatenate([answer.touched for answer in answers])
    kept = np.flatnonzero(touched > 0)
    _, first, back = np.unique(keys_of(ids)[kept], return_index=True, return_inverse=True)
    total = np.bincount(back, weights=touched[kept], minlength=len(first))
    share = touched[kept] / total[back]
    rows = np.zeros((len(first), answers[0].rows.shape[1]))
    np.add.at(rows, back, np.concatenate([answer.rows for answer in answers])[kept] * share[:, None])
    squares = np.bincount(back, np.concatenate([answer.squares for answer in answers])[kept] * share, len(first))
    seen = np.zeros(len(first), np.int64)
    np.maximum.at(seen, back, np.concatenate([answer.seen_us for answer in answers])[kept])
    # In the order in which they were named, which does not depend on hashes.
    order = np.argsort(first)
    return Rows(
        [ids[kept[k]] for k in first[order]],
        rows[order].astype(np.float32),
        squares[order].astype(np.float32),
        seen[order],
        total[order].astype(np.int64),
    )
