"""Figures of judged impressions, each with the interval that chance leaves.

An impression is the unit of a bootstrap (Efron, 1979): candidates of one list are no independent draws. So every
figure is a ratio of two sums over impressions, or a mean of one number each; AUC, which is neither, is computed anew
from resampled impressions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.trainer import scores

Floats = NDArray[np.float64]

DRAWS = 500
"""Resamples behind an interval."""


@dataclass(frozen=True)
class JudgedList:
    """One list, its scores and what was clicked; [n] items that were shown, in the order shown."""

    impression_id: str
    user: str
    time_us: int
    scores: NDArray[np.float32]
    clicks: NDArray[np.bool_]
    new_user: bool
    new_items: NDArray[np.bool_]
    """Items without a row."""
    categories: tuple[str, ...] = ()
    """Of the items, as served; empty when nobody asked."""
    placement: str = ""
    device: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; NaN where there is nothing to judge."""

    value: float
    lower: float
    upper: float
    lists: int


def first_click_rank(judged: JudgedList) -> float:
    """1 / place of the best-placed click, ties in the order shown; NaN without a click.

    >>> clicks = np.array([True, False])
    >>> shown = JudgedList("", "", 0, np.array([0.1, 0.9], np.float32), clicks, False, np.zeros(2, np.bool_))
    >>> first_click_rank(shown)
    0.5
    """
    if not judged.clicks.any():
        return float("nan")
    order = np.argsort(-judged.scores, kind="stable")
    return 1.0 / (1 + int(np.argmax(judged.clicks[order])))


def recall(judged: JudgedList, top: int) -> float:
    """Share of the clicks among the first `top`; NaN without a click."""
    if not judged.clicks.any():
        return float("nan")
    order = np.argsort(-judged.scores, kind="stable")[:top]
    return float(judged.clicks[order].sum() / judged.clicks.sum())


def ndcg(judged: JudgedList, top: int) -> float:
    """NDCG of the first `top`; NaN without a click."""
    return scores.ndcg(judged.clicks, judged.scores, top)


def list_auc(judged: JudgedList) -> float:
    """AUC inside one list; NaN when all or nothing was clicked."""
    return scores.auc(judged.clicks, judged.scores)


def log_loss(judged: JudgedList) -> float:
    """Mean log-loss of the items."""
    return scores.log_loss(judged.clicks, judged.scores)


PER_LIST: dict[str, Callable[[JudgedList], float]] = {
    "mrr": first_click_rank,
    "ndcg_at_10": partial(ndcg, top=10),
    "recall_at_5": partial(recall, top=5),
    "group_auc": list_auc,
    "log_loss": log_loss,
}
"""Figures that are a mean over lists."""


def table(lists: Sequence[JudgedList], tops: Sequence[int] = ()) -> dict[str, Floats]:
    """Every per-list figure as [lists], in order: what two ways are compared by, list by list.

    `tops`: numbers of first places of which NDCG and recall are told beside the usual ones.
    """
    more: dict[str, Callable[[JudgedList], float]] = {}
    for top in tops:
        more[f"ndcg_at_{top}"] = partial(ndcg, top=top)
        more[f"recall_at_{top}"] = partial(recall, top=top)
    return {name: np.array([figure(judged) for judged in lists]) for name, figure in (PER_LIST | more).items()}


def mean(values: Floats, seed: int = 0) -> Figure:
    """Mean of those that are numbers, with a bootstrap interval."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    chance = np.random.default_rng(seed)
    draws = [known[chance.integers(0, len(known), len(known))].mean() for _ in range(DRAWS)]
    lower, upper = np.percentile(draws, [2.5, 97.5])
    return Figure(float(known.mean()), float(lower), float(upper), len(known))


def pooled_auc(lists: Sequence[JudgedList], draws: int = 50, seed: int = 0) -> Figure:
    """AUC over all candidates of all lists; the interval resamples lists."""
    if not lists:
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    sizes = np.array([len(judged.clicks) for judged in lists])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    labels = np.concatenate([judged.clicks for judged in lists])
    flat = np.concatenate([judged.scores for judged in lists])
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        chosen = chance.integers(0, len(lists), len(lists))
        at = np.concatenate([np.arange(starts[k], starts[k + 1]) for k in chosen])
        found.append(scores.auc(labels[at], flat[at]))
    lower, upper = np.nanpercentile(found, [2.5, 97.5])
    return Figure(scores.auc(labels, flat), float(lower), float(upper), len(lists))


def thresholded(lists: Sequence[JudgedList], seed: int = 0) -> tuple[float, dict[str, Figure]]:
    """The threshold of the highest F1, and of saying yes from there on precision, recall, f1 and accuracy.

    Beside them calibration (predicted / true) and rmse of the scores as probabilities. The threshold is chosen on the
    first half of the lists and all is judged on the second: chosen where it is judged, it would flatter. Intervals
    resample lists; nothing of no lists.
    """
    half = len(lists) // 2
    if not half:
        return float("nan"), {}
    threshold = scores.best_threshold(*flattened(lists[:half]))
    sums = np.array([_sums(judged, threshold) for judged in lists[half:]])
    chance, n = np.random.default_rng(seed), len(sums)
    drawn = [_decided(sums[chance.integers(0, n, n)].sum(axis=0)) for _ in range(DRAWS)]
    found = _decided(sums.sum(axis=0))
    return threshold, {name: _figure(value, [one[name] for one in drawn], n) for name, value in found.items()}


def _figure(value: float, draws: Sequence[float], lists: int) -> Figure:
    known = [draw for draw in draws if np.isfinite(draw)]
    lower, upper = np.percentile(known, [2.5, 97.5]) if known else (float("nan"),) * 2
    return Figure(value, float(lower), float(upper), lists)


def _sums(judged: JudgedList, threshold: float) -> tuple[float, ...]:
    """Of one list: hits, said yes, positives, right, items, sum of scores, sum of squared errors."""
    said, clicks = judged.scores >= threshold, judged.clicks
    flat = judged.scores.astype(np.float64)
    return (
        (said & clicks).sum(),
        said.sum(),
        clicks.sum(),
        (said == clicks).sum(),
        len(clicks),
        flat.sum(),
        ((flat - clicks) ** 2).sum(),
    )


def _decided(sums: Floats) -> dict[str, float]:
    """Figures from the sums of many lists; NaN where there is nothing to divide by."""
    hits, said, positives, right, items, expected, squares = sums.tolist()
    return {
        "precision": _ratio(hits, said),
        "recall": _ratio(hits, positives),
        "f1": _ratio(2 * hits, said + positives),
        "accuracy": _ratio(right, items),
        "calibration": _ratio(expected, positives),
        "rmse": _ratio(squares, items) ** 0.5,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def of_ratings(pairs: Sequence[tuple[float, float]], seed: int = 0) -> dict[str, Figure]:
    """RMSE and MAE of (expected, given) ratings, one by one; nothing of none."""
    if not pairs:
        return {}
    off = np.subtract(*np.array(pairs).T)
    squares = mean(off**2, seed)
    value, lower, upper = (float(one**0.5) for one in (squares.value, squares.lower, squares.upper))
    return {"rating_rmse": Figure(value, lower, upper, squares.lists), "rating_mae": mean(np.abs(off), seed)}


def flattened(lists: Sequence[JudgedList]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Labels and scores of all candidates of all lists."""
    if not lists:
        return np.zeros(0, np.bool_), np.zeros(0, np.float32)
    return np.concatenate([j.clicks for j in lists]), np.concatenate([j.scores for j in lists])


def log_odds(scores_: NDArray[np.float32]) -> Floats:
    """ln(p / (1 - p)), bounded."""
    return scores.logit(scores_)
