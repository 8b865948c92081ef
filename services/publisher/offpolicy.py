"""What a ranking would have earned where another one was shown: three estimators over logged chance.

A *slot* is a place of an answer where chance had a say. With p the probability of what was shown there, t the one that
the judged ranking gives it, w = t / p, r whether it was clicked, q a model's guess of r, v that guess for what the
judged ranking would show:

- `ips`: the sum of w r over the impressions (Horvitz and Thompson, 1952). Unbiased.
- `snips`: the same over the sum of w instead of its expectation, the number of slots (Swaminathan and Joachims, 2015):
  consistent, and calmer where weights vary.
- `dr`: the sum of v + w (r - q) (Dudik, Langford and Li, 2011). Unbiased whatever the guess, with less variance the
  better it is.

All are clicks per impression. Weights are cut at `clip`: as clicks are no less than 0 that can only lower `ips`, by
`clipped` at most, and moves `dr` by the guess's error there. Impressions are the independent units of the errors.
Slots without chance (p = 0 or p = 1) say nothing of other rankings and are left out; of too few there is no figure.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Record = dict[str, float | str]
"""Plain figures for the audit."""

_SURE = 1.959964
"""Standard errors on either side of a mean that hold it with 95 %."""


@dataclass(frozen=True)
class Slots:
    """Logged slots [n] and what the judged ranking would do in each."""

    unit: Ints
    """The impression's number."""
    reward: Floats
    """1 where what was shown was clicked."""
    propensity: Floats
    """Of what was shown, when it was shown."""
    target: Floats
    """Probability that the judged ranking shows it."""
    guess: Floats
    """Click probability of what was shown, by a model that need not be right."""
    expected: Floats
    """The same of what the judged ranking shows."""


@dataclass(frozen=True)
class Bounds:
    """How large a weight may be, and what is too little for a figure."""

    clip: float = 100.0
    impressions: int = 300
    effective: float = 100.0
    """Least effective number of slots, (sum w)^2 / sum w^2 (Kish, 1965); what the ranking would not show weighs 0."""


@dataclass(frozen=True)
class Figure:
    """A mean over impressions."""

    mean: float
    error: float
    """Standard error."""

    @property
    def interval(self) -> tuple[float, float]:
        """Holds the truth in 95 of 100 cases, the mean being nearly normal."""
        return self.mean - _SURE * self.error, self.mean + _SURE * self.error


@dataclass(frozen=True)
class Estimate:
    """Clicks per impression by the three estimators."""

    ips: Figure
    snips: Figure
    dr: Figure
    impressions: int
    effective: float
    """Effective number of slots."""
    clipped: float
    """Most that clipping has taken from `ips`."""

    def record(self) -> Record:
        """Plain figures for the audit."""
        out: Record = {"offpolicy_n": float(self.impressions), "effective_n": self.effective, "clipped": self.clipped}
        for name, figure in (("ips", self.ips), ("snips", self.snips), ("dr", self.dr)):
            out |= {name: figure.mean, f"{name}_error": figure.error}
        return out


@dataclass(frozen=True)
class TooFew:
    """There is not enough chance in the log for a figure."""

    impressions: int

    def record(self) -> Record:
        """Plain figures for the audit: none."""
        return {"offpolicy_n": float(self.impressions), "offpolicy": "too few"}


def estimate(slots: Slots, bounds: Bounds = Bounds()) -> Estimate | TooFew:
    """Clicks per impression that the judged ranking would have earned.

    >>> none = np.zeros(0)
    >>> estimate(Slots(np.zeros(0, np.int64), none, none, none, none, none))
    TooFew(impressions=0)
    """
    slots = with_chance(slots)
    unit, whole = _units(slots), _weights(slots)
    count = int(unit.max(initial=-1)) + 1
    weight = np.minimum(whole, bounds.clip)
    effective = float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0
    if count < max(2, bounds.impressions) or effective < bounds.effective:
        return TooFew(count)
    return Estimate(
        ips=_mean(_summed(unit, weight * slots.reward)),
        snips=_normalised(slots, weight, unit, count),
        dr=_mean(_robust(slots, weight, unit)),
        impressions=count,
        effective=effective,
        clipped=float((whole - weight).sum() / count),
    )


def difference(one: Slots, other: Slots, bounds: Bounds = Bounds()) -> Figure | None:
    """Doubly robust clicks per impression of one ranking less another's on the same slots; None for too few.

    Both must be of the same slots in the same order. What both would show alike cancels, so the error is that of what
    they disagree on.
    """
    if isinstance(estimate(one, bounds), TooFew) or isinstance(estimate(other, bounds), TooFew):
        return None
    parts = []
    for slots in map(with_chance, (one, other)):
        parts.append(_robust(slots, np.minimum(_weights(slots), bounds.clip), _units(slots)))
    return _mean(parts[0] - parts[1])


def with_chance(slots: Slots) -> Slots:
    """The slots where something else could have been shown."""
    kept = (slots.propensity > 0) & (slots.propensity < 1)
    return Slots(**{name: value[kept] for name, value in vars(slots).items()})


def _weights(slots: Slots) -> Floats:
    return slots.target / slots.propensity


def _units(slots: Slots) -> Ints:
    return np.unique(slots.unit, return_inverse=True)[1]


def _summed(unit: Ints, values: Floats) -> Floats:
    return np.asarray(np.bincount(unit, values), np.float64)


def _mean(values: Floats) -> Figure:
    return Figure(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _robust(slots: Slots, weight: Floats, unit: Ints) -> Floats:
    return _summed(unit, slots.expected + weight * (slots.reward - slots.guess))


def _normalised(slots: Slots, weight: Floats, unit: Ints, count: int) -> Figure:
    """Mean reward by weight, times slots of an impression; its error by the delta method."""
    total, per = weight.sum(), len(weight) / count
    mean = float((weight * slots.reward).sum() / total)
    off = _summed(unit, weight * (slots.reward - mean))
    return Figure(mean * per, float(np.sqrt(np.square(off).sum()) / total) * per)
