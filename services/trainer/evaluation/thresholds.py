"""From which score on to say yes, by segment: new shoppers, a category, a placement.

Chosen on the first half of the lists and judged on the second: chosen where it is judged, a threshold flatters.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.trainer import scores
from services.trainer.evaluation import figures
from services.trainer.evaluation.figures import JudgedList
from services.trainer.scores import Rule

Labels = NDArray[np.bool_]

_MOST_VALUES = 30
"""Segments of a kind, those with most items."""


@dataclass(frozen=True)
class Segments(Rule):
    """The rule, and how far a segment follows its own."""

    least: int = 20
    """Positives from which a segment has a threshold of its own."""
    prior: float = 50.0
    """Positives that the threshold of all counts for beside a segment's own, in log-odds: few are pulled to all."""


def by_segment(lists: Sequence[JudgedList], rule: Segments) -> dict[str, Any]:
    """{"rule", "all", "segments"}: thresholds, and what they do on the second half; None for what is no number.

    `own` is the best of the segment alone, `threshold` what is left of it after shrinkage, `f_with_all` the F of the
    threshold of all on the segment. With a precision floor the shrunken threshold may fall below it: `precision` says.
    """
    half = len(lists) // 2
    past, now = lists[:half], lists[half:]
    if not past:
        return {}
    flat = [figures.flattened(part) for part in (past, now)]
    overall = scores.best_threshold(*flat[0], rule)
    masks = [_members(part) for part in (past, now)]
    found = {}
    for name in masks[0].keys() & masks[1].keys():
        (old, scored), (labels, new) = (
            (y[mask[name]], p[mask[name]]) for (y, p), mask in zip(flat, masks, strict=True)
        )
        own = scores.best_threshold(old, scored, rule)
        threshold = shrunken(own, overall, int(old.sum()), rule)
        with_all = scores.decided(labels, new, overall, rule.beta)["f"]
        found[name] = _row(int(old.sum()), labels, new, threshold, rule) | _plain({"own": own, "f_with_all": with_all})
    everything = _row(int(flat[0][0].sum()), *flat[1], overall, rule)
    return {"rule": asdict(rule), "all": everything, "segments": dict(sorted(found.items()))}


def shrunken(own: float, overall: float, positives: int, rule: Segments) -> float:
    """The mean of both in log-odds, weighed by positives and by what the one of all counts for.

    >>> round(shrunken(0.2, 0.1, 50, Segments(prior=50)), 3), shrunken(0.2, 0.1, 3, Segments())
    (0.143, 0.1)
    """
    if positives < rule.least or not np.isfinite(own):
        return overall
    if not np.isfinite(overall):
        return own
    mine, alls = scores.logit(np.array([own, overall], np.float32))
    mean = (positives * mine + rule.prior * alls) / (positives + rule.prior)
    return float(1 / (1 + np.exp(-mean)))


def _members(lists: Sequence[JudgedList]) -> dict[str, Labels]:
    """Which items of all lists, one after the other, belong to each segment."""
    sizes = [len(judged.clicks) for judged in lists]
    out: dict[str, Labels] = {}
    new_users = np.repeat([judged.new_user for judged in lists], sizes)
    new_items = np.concatenate([judged.new_items for judged in lists])
    out |= {"user=new": new_users, "user=known": ~new_users, "item=new": new_items, "item=known": ~new_items}
    for kind, values in (
        ("category", np.array([c for judged in lists for c in judged.categories])),
        ("placement", np.repeat([judged.placement for judged in lists], sizes)),
        ("device", np.repeat([judged.device for judged in lists], sizes)),
    ):
        if len(values) == len(new_items):
            out |= {f"{kind}={value}": values == value for value in _largest(values)}
    return out


def _largest(values: NDArray[np.str_]) -> Iterator[str]:
    yield from (value for value, _ in Counter(values.tolist()).most_common(_MOST_VALUES) if value)


def _row(positives: int, labels: Labels, flat: NDArray[np.float32], threshold: float, rule: Segments) -> dict[str, Any]:
    decided = scores.decided(labels, flat, threshold, rule.beta)
    return _plain({"threshold": threshold, **decided}) | {"positives": positives, "judged": len(labels)}


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
