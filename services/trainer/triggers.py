"""When a checkpoint and a release are made. Pure: the time is an argument.

A trigger looks at the clock, at how much was learned, at what the last update cost, at the losses of impressions
whose labels have become final, or at samples of what was learned from. Several make one: whichever comes first, all of
them, most of them. None is in a checkpoint: after a restart each begins anew.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from services.trainer.distributions import Sample


class Trigger(Protocol):
    """Says when enough has come together."""

    def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
        """Log-losses of impressions, scored before they were learned and labelled to the end, in order.

        `surpluses`: what of each lies above the loss that the scores themselves expect, 0 in the mean while they are
        right, however many clicks there are.
        """
        ...

    def watch(self, sample: Sample) -> None:
        """Features and clicks of impressions that were learned from, in order."""
        ...

    def due(self, now_us: int, learned: int) -> str:
        """What makes it time, empty when it is not; `learned` counts examples since the beginning and only grows."""
        ...

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """A release was made, whoever asked for it, and took so long."""
        ...


class Quiet:
    """What a trigger does about what it does not look at."""

    def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
        """Nothing."""

    def watch(self, sample: Sample) -> None:
        """Nothing."""


class _Counting(Quiet):
    """What triggers have in common that look at examples only: how many there were at the last release."""

    _learned: int | None = None

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`."""
        self._learned = learned

    def _since(self, learned: int) -> int:
        if self._learned is None:
            self._learned = learned
        return learned - self._learned


class TimeTrigger(_Counting):
    """Every so many seconds, if anything was learned since.

    >>> trigger = TimeTrigger(30)
    >>> trigger.due(0, 0), trigger.due(29_000_000, 5), trigger.due(30_000_000, 5)
    ('', '', 'time(30)')
    """

    def __init__(self, seconds: float) -> None:
        self._interval_us = int(seconds * 1e6)
        self._last_us: int | None = None
        self._name = f"time({seconds:g})"

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`; the first call starts the clock."""
        if self._last_us is None:
            self._last_us = now_us
        new = self._since(learned) > 0
        return self._name if new and now_us - self._last_us >= self._interval_us else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`."""
        super().fired(now_us, learned)
        self._last_us = now_us


class VolumeTrigger(_Counting):
    """After so many examples, counted from the first call.

    >>> trigger = VolumeTrigger(100)
    >>> trigger.due(0, 7), trigger.due(0, 106), trigger.due(0, 107)
    ('', '', 'volume(100)')
    """

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._name = f"volume({examples})"

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`."""
        return self._name if self._since(learned) >= self._examples else ""


class CostTrigger(_Counting):
    """As soon as so many seconds per 1,000 examples pay for an update as dear as the last one.

    >>> trigger = CostTrigger(0.5)
    >>> trigger.due(0, 0), trigger.due(0, 1)
    ('', 'cost(0.5)')
    >>> trigger.fired(0, 1, seconds=2.0)
    >>> trigger.due(0, 4000), trigger.due(0, 4001)
    ('', 'cost(0.5)')
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._cost = seconds, 0.0
        self._name = f"cost({seconds:g})"

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`; the first update is free, for nobody knows its price."""
        new = self._since(learned)
        return self._name if new > 0 and self._cost <= self._seconds * new / 1000 else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`."""
        super().fired(now_us, learned)
        self._cost = seconds


class PerformanceTrigger(Quiet):
    """When the mean loss of the newest impressions is worse by a share than the best one since the last release."""

    def __init__(self, worse: float, window: int = 500) -> None:
        self._worse = worse
        self._window: deque[float] = deque(maxlen=window)
        self._sum = 0.0
        self._best = math.inf
        self._name = f"performance({worse:g}, {window})"

    def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
        """See `Trigger`; a window that is not full is not judged."""
        for loss in losses:
            if len(self._window) == self._window.maxlen:
                self._sum -= self._window[0]
            self._window.append(loss)
            self._sum += loss
            if len(self._window) == self._window.maxlen:
                self._best = min(self._best, self._mean)

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`."""
        full = len(self._window) == self._window.maxlen
        return self._name if full and self._mean > self._best * (1 + self._worse) else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`; what the release will do is compared with impressions that come from now on."""
        self._window.clear()
        self._sum, self._best = 0.0, math.inf

    @property
    def _mean(self) -> float:
        return self._sum / len(self._window)


class AtLeast:
    """So many of several triggers; every one is asked each time, so that each one's clock starts."""

    def __init__(self, needed: int, triggers: Sequence[Trigger]) -> None:
        self._needed, self._triggers = needed, tuple(triggers)

    def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
        """See `Trigger`."""
        for trigger in self._triggers:
            trigger.see(losses, surpluses)

    def watch(self, sample: Sample) -> None:
        """See `Trigger`."""
        for trigger in self._triggers:
            trigger.watch(sample)

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`; the reasons of those that are due."""
        reasons = [reason for trigger in self._triggers if (reason := trigger.due(now_us, learned))]
        return " and ".join(reasons) if len(reasons) >= self._needed else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`."""
        for trigger in self._triggers:
            trigger.fired(now_us, learned, seconds)
