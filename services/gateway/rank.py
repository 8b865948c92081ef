"""The pure middle of ranking: scores and columns in, order and ages out; no waiting, no protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.gateway import rerank
from services.gateway.calls import Ages
from services.gateway.candidates import Candidates
from services.gateway.shopper import Shopper

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """Candidates with their scores and their order."""

    score: Floats
    """[n] what they are ordered by."""
    order: Ints
    heads: Sequence[str] = ()
    objectives: Floats | None = None
    """[n, heads]; None without a model."""


def by_model(scores: Floats, weights: Floats, heads: Sequence[str], prior_rank: Ints) -> Scored:
    """Order by weighted objectives; `scores` [n, heads]."""
    score = rerank.objective(scores, weights)
    return Scored(score, rerank.by_score(score, prior_rank), heads, scores)


def by_prior(prior_rank: Ints, popular: Floats) -> Scored:
    """Without a model: the caller's order, and where there is none by popularity; the score falls from 1 to 0."""
    if (prior_rank > 0).any():
        order = rerank.callers_order(prior_rank)
    else:
        order = np.argsort(-np.nan_to_num(popular, nan=-np.inf), kind="stable")
    return Scored(falling(order), order)


def falling(order: Ints) -> Floats:
    """A score per candidate that says nothing but its place: 1 / (1 + place).

    >>> falling(np.array([1, 0]))
    array([0.5, 1. ], dtype=float32)
    """
    score = np.empty(len(order), np.float32)
    score[order] = 1 / (1 + np.arange(len(order), dtype=np.float32))
    return score


def ages(candidates: Candidates, shopper: Shopper, release_us: int, now_us: int) -> Ages:
    """Ages at `now_us`; `release_us`: event time the dense weights have learned up to, 0 = no release."""
    times = candidates.time_us[candidates.time_us > 0]
    rows = candidates.rows.time_us[candidates.rows.mask]
    newest_row = max(int(rows.max(initial=0)), shopper.row_time_us)
    return Ages(
        user_features_ms=_age(shopper.changed_us, now_us),
        item_features_ms=_age(int(np.partition(times, len(times) // 2)[len(times) // 2]) if len(times) else 0, now_us),
        rows_ms=_age(newest_row, now_us),
        release_ms=_age(release_us, now_us),
    )


def _age(time_us: int, now_us: int) -> float:
    return max(0, now_us - time_us) / 1e3 if time_us > 0 else -1.0
