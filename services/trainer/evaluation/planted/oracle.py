"""Scores against the truth: what an order costs in clicks, a probability in log-loss, and how long a change hurts.

Nothing here looks at clicks that happened, so nothing but the model and the lists is left to chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.evaluation.figures import JudgedList
from services.trainer.evaluation.planted.log import number_of
from services.trainer.evaluation.planted.shop import START_US, Happened

Floats = NDArray[np.float64]

EPSILON = 1e-6
"""Predicted probabilities are kept this far from 0 and 1."""


@dataclass(frozen=True)
class Known:
    """Lists that a way has scored, beside what is true of them; n lists of m items."""

    seconds: Floats
    """[n]: since the beginning of the log, growing."""
    scores: Floats
    """[n, m]."""
    clicks: Floats
    """[n, m]: probability of a click ever."""
    labelled: Floats
    """[n, m]: probability of a click inside the window."""

    def since(self, begin_s: float, end_s: float = np.inf) -> "Known":
        """Those of the lists that were shown from one moment on and before another."""
        chosen = (self.seconds >= begin_s) & (self.seconds < end_s)
        return Known(self.seconds[chosen], self.scores[chosen], self.clicks[chosen], self.labelled[chosen])

    def regret(self, top: int = 3) -> Floats:
        """See `regret`, [n]."""
        return regret(self.clicks, self.scores, top)

    def at_stake(self, top: int = 3) -> Floats:
        """See `at_stake`, [n]."""
        return at_stake(self.clicks, top)


def known(happened: Happened, lists: Sequence[JudgedList]) -> Known:
    """Put judged lists beside the truth, in order of time."""
    judged = sorted(lists, key=lambda each: each.time_us)
    rows = [number_of(each.impression_id) for each in judged]
    shape = (len(rows), happened.plan.listed)
    scores = np.array([each.scores for each in judged], np.float64).reshape(shape)
    seconds = (happened.time_us[rows] - START_US) / 1e6
    return Known(seconds, scores, happened.clicks[rows].reshape(shape), happened.labelled[rows].reshape(shape))


def regret(clicks: Floats, scores: Floats, top: int = 3) -> Floats:
    """Expected clicks that each list loses among its first `top` against the best order, [n]; never below 0.

    `clicks` and `scores` are [n, m]; ties stay in the order shown.

    >>> regret(np.array([[0.5, 0.25, 0.0]]), np.array([[0.1, 0.2, 0.9]]), top=1)
    array([0.5])
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    best = np.sort(clicks, axis=1)[:, ::-1][:, :top].sum(axis=1)
    out: Floats = best - np.sort(np.take_along_axis(clicks, order, axis=1), axis=1)[:, ::-1].sum(axis=1)
    return out


def at_stake(clicks: Floats, top: int = 3) -> Floats:
    """Regret of a random order, in expectation, [n]: what regrets are measured by where the shop itself changes.

    >>> at_stake(np.array([[0.5, 0.25, 0.0]]), top=1)
    array([0.25])
    """
    best = np.sort(clicks, axis=1)[:, ::-1][:, :top].sum(axis=1)
    out: Floats = best - min(top, clicks.shape[1]) * clicks.mean(axis=1)
    return out


def excess_log_loss(truth: Floats, scores: Floats) -> Floats:
    """Mean over a list's items of what the expected log-loss lies above that of the truth itself, [n].

    That is the Kullback-Leibler divergence of two coins, p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)).

    >>> excess_log_loss(np.array([[0.5, 0.25]]), np.array([[0.5, 0.25]]))
    array([0.])
    """
    p, q = (np.clip(values, EPSILON, 1 - EPSILON) for values in (truth, scores))
    out: Floats = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(axis=1)
    return out


def calibration(truth: Floats, scores: Floats) -> float:
    """Expected clicks by the scores, for each that is true; 1 is right.

    >>> calibration(np.array([[0.5, 0.25]]), np.array([[1.0, 0.5]]))
    2.0
    """
    return float(scores.sum() / truth.sum())


@dataclass(frozen=True)
class Recovery:
    """How a way takes a change; regrets are shares of what a random order would lose on the same lists."""

    before: float
    """In the window just before the change."""
    jump: float
    """In the first window behind it."""
    final: float
    """In the last window of the log."""
    lost: float
    """Expected clicks lost from the change to the end of the log, beyond a regret that stays at `before`."""
    seconds: float | None
    """See `recovery`; None when it never is."""


def recovery(
    seconds: Floats, regrets: Floats, stakes: Floats, at_s: float, window_s: float, within: float = 0.2
) -> Recovery:
    """How long after a change the regret of the newest `window_s` is back at its level before.

    Regret of a window is the sum of `regrets` over that of `stakes`: a change may leave more or less to lose, and the
    level must mean the same on both sides. Back means: at most (1 + `within`) times the window just before the change.
    The first window that lies behind the change altogether is judged first; who is within the bound there was never
    out of it, 0 seconds. All are [n], `seconds` grow; raises ValueError when a window of either side holds no list.
    """
    lost, staked = (np.concatenate([[0.0], np.cumsum(values)]) for values in (regrets, stakes))

    def share(begin: Floats, end: Floats) -> Floats:
        first, last = np.searchsorted(seconds, begin), np.searchsorted(seconds, end)
        if not (last > first).all():
            raise ValueError(f"a window of {window_s:g} s beside the change at {at_s:g} s holds no list")
        out: Floats = (lost[last] - lost[first]) / (staked[last] - staked[first])
        return out

    at = np.array([at_s])
    before, jump = float(share(at - window_s, at)[0]), float(share(at, at + window_s)[0])
    ends = np.unique(np.append(seconds[seconds >= at_s + window_s], at_s + window_s))
    shares = share(ends - window_s, ends)
    back = np.flatnonzero(shares <= (1 + within) * before)
    healed = None if not len(back) else 0.0 if back[0] == 0 else float(ends[back[0]] - at_s)
    behind = seconds >= at_s
    extra = float(regrets[behind].sum() - before * stakes[behind].sum())
    return Recovery(before, jump, float(shares[-1]), extra, healed)
