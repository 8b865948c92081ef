"""When a checkpoint and a release are made: by time and by volume. Pure: the time is an argument."""

from collections.abc import Sequence
from typing import Protocol


class Trigger(Protocol):
    """Says when enough has come together."""

    def due(self, now_us: int, learned: int) -> bool:
        """True when it is time; `learned` counts examples since the beginning and only grows."""
        ...

    def fired(self, now_us: int, learned: int) -> None:
        """A release was made, whoever asked for it."""
        ...


class TimeTrigger:
    """Every so many seconds, if anything was learned since.

    >>> trigger = TimeTrigger(30)
    >>> trigger.due(0, 0), trigger.due(29_000_000, 5), trigger.due(30_000_000, 5)
    (False, False, True)
    """

    def __init__(self, seconds: float) -> None:
        self._interval_us = int(seconds * 1e6)
        self._last_us: int | None = None
        self._learned = 0

    def due(self, now_us: int, learned: int) -> bool:
        """See `Trigger`; the first call starts the clock."""
        if self._last_us is None:
            self._last_us, self._learned = now_us, learned
        return learned > self._learned and now_us - self._last_us >= self._interval_us

    def fired(self, now_us: int, learned: int) -> None:
        """See `Trigger`."""
        self._last_us, self._learned = now_us, learned


class VolumeTrigger:
    """After so many examples, counted from the first call.

    >>> trigger = VolumeTrigger(100)
    >>> trigger.due(0, 7), trigger.due(0, 106), trigger.due(0, 107)
    (False, False, True)
    """

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._learned: int | None = None

    def due(self, now_us: int, learned: int) -> bool:
        """See `Trigger`."""
        if self._learned is None:
            self._learned = learned
        return learned - self._learned >= self._examples

    def fired(self, now_us: int, learned: int) -> None:
        """See `Trigger`."""
        self._learned = learned


class AnyOf:
    """Whichever comes first."""

    def __init__(self, triggers: Sequence[Trigger]) -> None:
        self._triggers = tuple(triggers)

    def due(self, now_us: int, learned: int) -> bool:
        """See `Trigger`; every trigger is asked, so that each one's clock starts."""
        return any([trigger.due(now_us, learned) for trigger in self._triggers])

    def fired(self, now_us: int, learned: int) -> None:
        """See `Trigger`."""
        for trigger in self._triggers:
            trigger.fired(now_us, learned)
