"""Time as an argument: the only module that asks the operating system what time it is."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        ...


class WallClock:
    """The time of day."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that stands until it is moved: for replays and tests.

    >>> clock = ManualClock(5)
    >>> clock.advance_to(9); clock.advance_to(7); clock.now_us()
    9
    """

    def __init__(self, start_us: int = 0) -> None:
        self._now_us = start_us

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return self._now_us

    def advance_to(self, time_us: int) -> None:
        """Move forward; never back."""
        self._now_us = max(self._now_us, time_us)
