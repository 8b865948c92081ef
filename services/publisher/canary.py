"""The watch over a new champion: pure counting, and tests that may be looked at as often as one likes.

Means are judged by confidence sequences, intervals that hold at all times at once (asymptotic normal-mixture form:
Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory", 2021; the mixture SPRT of Robbins,
1970). So "look every second, stop when it is bad" stops a champion that is as good as the previous one with at most
the stated probability over its whole life. Missing data is never a breach and never a proof.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.publisher.checks import Check, Verdict, at_most, verdict
from services.publisher.pod import ServedStats

Values = NDArray[np.float64]


@dataclass(frozen=True)
class WatchBounds:
    """When a champion is taken back. The error rates add up to at most 5 %."""

    quality_error: float = 0.02
    """Probability of a false stop by log-loss."""
    calibration_error: float = 0.005
    """The same by calibration, for each of its two sides."""
    degraded_error: float = 0.01
    """The same by the share of degraded answers."""
    least: int = 100
    """Impressions before a mean is judged: the intervals rest on the central limit theorem."""
    tuned_for: int = 2_000
    """Impressions at which the intervals are narrowest."""
    log_loss: float = 0.0
    """Rise of the log-loss per candidate, against the previous release, that is tolerated."""
    calibration: float = 1.5
    """Sum of probabilities over clicks, and its inverse."""
    degraded: float = 0.05
    """Degraded share beyond the previous release's."""
    failed: float = 0.05
    """Share of failed inferences beyond the previous release's, while golden requests are answered."""
    requests: int = 50
    """Inferences before failures and times are judged."""
    latency_ratio: float = 2.0
    latency_ms: float = 5.0
    """Mean time of an inference: this many times the previous release's, and so much more."""
    heals: int = 3
    """Times its process had to be loaded anew."""


class Sequence:
    """A running mean with a lower confidence bound that holds at all times.

    >>> sequence = Sequence()
    >>> sequence.add(np.full(1000, 1.0) + np.tile([-0.1, 0.1], 500))
    >>> 0.9 < sequence.lower(0.01, 1000) < 1.0
    True
    """

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Values) -> None:
        """Take values in (Chan's update of mean and squares)."""
        count = len(values)
        if not count:
            return
        mean = float(values.mean())
        gap, total = mean - self.mean, self.count + count
        self._squares += float(((values - mean) ** 2).sum()) + gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    def state(self) -> list[float]:
        """Count, mean and sum of squares around it: everything."""
        return [self.count, self.mean, self._squares]

    @staticmethod
    def of(state: Iterable[float]) -> "Sequence":
        """The sequence of a `state`."""
        found = Sequence()
        count, found.mean, found._squares = state
        found.count = int(count)
        return found

    @property
    def variance(self) -> float:
        """Sample variance."""
        return self._squares / self.count if self.count else float("nan")

    def lower(self, error: float, tuned_for: int) -> float:
        """A bound that the true mean is below at no time, but for probability `error`; minus infinity without data."""
        return self.mean - self.width(error, tuned_for)

    def floored(self, error: float, tuned_for: int) -> float:
        """`width` of a share; a sample without any variance is not certain."""
        floor = Sequence()
        floor.count, floor._squares = self.count, max(self.variance, 1 / self.count) * self.count
        return floor.width(error, tuned_for)

    def width(self, error: float, tuned_for: int) -> float:
        """Half the width of the interval, one-sided."""
        if self.count < 2:
            return float("inf")
        two_sided = 2 * error
        log = -2 * math.log(two_sided)
        rho2 = (log + math.log(log + 1)) / tuned_for
        inside = self.count * rho2 + 1
        spread = 2 * inside / (self.count**2 * rho2) * math.log(math.sqrt(inside) / two_sided)
        return math.sqrt(self.variance * spread)


@dataclass(frozen=True)
class Paired:
    """One impression scored by both releases over the same inputs: sums over its candidates."""

    losses: tuple[float, float]
    """Log-loss of champion and previous."""
    expected: tuple[float, float]
    """Sum of click probabilities of champion and previous."""
    clicks: float
    candidates: int


class Watch:
    """Everything counted about one champion since it was routed to."""

    def __init__(self, champion: str, previous: str, bounds: WatchBounds) -> None:
        self.champion, self.previous = champion, previous
        self._bounds = bounds
        self._rise, self._over, self._under = Sequence(), Sequence(), Sequence()
        self._degraded = {True: Sequence(), False: Sequence()}
        self._off = [0.0, 0.0, 0.0]
        self._stats = (ServedStats(), ServedStats())
        self._healthy = False
        self._heals = 0

    def paired(self, impressions: Iterable[Paired]) -> None:
        """Impressions that neither release has learned from, labelled."""
        found = list(impressions)
        bound = self._bounds.calibration
        self._rise.add(np.array([(p.losses[0] - p.losses[1]) / p.candidates for p in found]))
        self._over.add(np.array([p.expected[0] - bound * p.clicks for p in found]))
        self._under.add(np.array([p.clicks - bound * p.expected[0] for p in found]))
        for p in found:
            for place, value in enumerate((*p.expected, p.clicks)):
                self._off[place] += value

    def served(self, by_champion: bool, degraded: bool) -> None:
        """An answer to a shopper who belongs to the champion, or to the watch's share."""
        self._degraded[by_champion].add(np.array([float(degraded)]))

    def inferences(self, champion: ServedStats, previous: ServedStats, healthy: bool) -> None:
        """Counts since routing; `healthy`: the champion's golden request was answered everywhere just now."""
        self._stats, self._healthy = (champion, previous), healthy

    def healed(self) -> None:
        """The champion's process had to be loaded anew on one server."""
        self._heals += 1

    def verdict(self) -> Verdict:
        """Every check that has enough data; failed ones are breaches."""
        b = self._bounds
        checks = [at_most("heals", self._heals, b.heals - 1, "times loaded anew")]
        if self._rise.count >= b.least:
            lower = self._rise.lower(b.quality_error, b.tuned_for)
            checks.append(
                at_most("log_loss", lower, b.log_loss, f"sure rise per candidate, mean {self._rise.mean:.3g}")
            )
            checks.append(self._calibration())
        checks += self._share() + self._requests()
        return verdict(checks)

    def figures(self) -> dict[str, float]:
        """What is known, for metrics and the audit record."""
        champion, previous = self._stats
        return {
            "impressions": float(self._rise.count),
            "log_loss_rise": self._rise.mean if self._rise.count else float("nan"),
            "log_loss_rise_lower": self._rise.lower(self._bounds.quality_error, self._bounds.tuned_for),
            "calibration": _ratio(self._off[0], self._off[2]),
            "calibration_previous": _ratio(self._off[1], self._off[2]),
            "degraded": self._degraded[True].mean,
            "degraded_previous": self._degraded[False].mean,
            "failed": _ratio(champion.failed, champion.failed + champion.answered),
            "latency_ms": _milliseconds(champion),
            "latency_ms_previous": _milliseconds(previous),
        }

    def _calibration(self) -> Check:
        """Surely off, and further off than the previous release on the same impressions."""
        b = self._bounds
        lower = max(s.lower(b.calibration_error, b.tuned_for) for s in (self._over, self._under))
        champion, previous = (abs(math.log(r)) if r > 0 else 0.0 for r in self._ratios())
        further = champion > previous + 0.05
        return at_most(
            "calibration", lower if further else min(lower, 0.0), 0.0, f"predicted over true {self._ratios()[0]:.3g}"
        )

    def _ratios(self) -> tuple[float, float]:
        return _ratio(self._off[0], self._off[2]), _ratio(self._off[1], self._off[2])

    def _share(self) -> list[Check]:
        b = self._bounds
        ours, theirs = self._degraded[True], self._degraded[False]
        if min(ours.count, theirs.count) < 20:
            return []
        # Both arms are uncertain: their half-widths add up, which is more careful than needed.
        sure = ours.mean - theirs.mean - sum(s.floored(b.degraded_error / 2, b.tuned_for) for s in (ours, theirs))
        return [at_most("degraded", sure, b.degraded, f"share {ours.mean:.3g}, previous {theirs.mean:.3g}")]

    def _requests(self) -> list[Check]:
        b = self._bounds
        champion, previous = self._stats
        checks = []
        total = champion.answered + champion.failed
        if self._healthy and total >= b.requests:
            usual = _ratio(previous.failed, previous.failed + previous.answered)
            allowed = b.failed + (usual if math.isfinite(usual) else 0.0)
            checks.append(at_most("failed", champion.failed / total, allowed, "share of inferences"))
        if min(champion.answered, previous.answered) >= b.requests:
            allowed = b.latency_ratio * _milliseconds(previous) + b.latency_ms
            checks.append(at_most("latency_ms", _milliseconds(champion), allowed, "mean of an inference"))
        return checks


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _milliseconds(stats: ServedStats) -> float:
    return 1000 * _ratio(stats.seconds, stats.answered)
