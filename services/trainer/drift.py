"""Drift in a stream of losses, by river's detectors.

- `adwin`: a window that is cut where two parts of it differ by more than chance (Bifet, Gavaldà, 2007). It tells a
  change in either direction; only a rise counts here.
- `page_hinkley`: the sum of what lies above the running mean, less a tolerance, against its minimum (Page, 1954).
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from services.trainer.triggers import Quiet


class Detector(Protocol):
    """What river's detectors have in common."""

    def update(self, x: float) -> None:
        """Take the next value."""
        ...

    @property
    def drift_detected(self) -> bool:
        """Whether the last value made it sure."""
        ...


def _river() -> Any:
    """Loaded by who asks for a detector: it takes pandas and scipy along."""
    return importlib.import_module("river.drift")


class _RisingAdwin:
    def __init__(self) -> None:
        self._adwin = _river().ADWIN(delta=0.0002, clock=16)
        self.drift_detected = False

    def update(self, x: float) -> None:
        before = self._adwin.estimation
        self._adwin.update(x)
        self.drift_detected = bool(self._adwin.drift_detected and self._adwin.estimation > before)


def _page_hinkley() -> Detector:
    detector: Detector = _river().PageHinkley(min_instances=200, delta=0.02, threshold=25.0, alpha=1.0, mode="up")
    return detector


DETECTORS: Mapping[str, Callable[[], Detector]] = {"adwin": _RisingAdwin, "page_hinkley": _page_hinkley}


class DriftTrigger(Quiet):
    """When a detector says that losses have risen for good; it starts anew behind the release that follows.

    It looks at surpluses where there are any: losses rise and fall with the click rate of the day, surpluses do not.
    """

    def __init__(self, detector: str) -> None:
        """`detector` is one of DETECTORS."""
        self._make = DETECTORS[detector]
        self._detector = self._make()
        self._drifted = False
        self._name = f"drift({detector})"

    def see(self, losses: Sequence[float], surpluses: Sequence[float] = ()) -> None:
        """See `Trigger`."""
        for value in surpluses or losses:
            self._detector.update(value)
            self._drifted |= self._detector.drift_detected

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`."""
        return self._name if self._drifted else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`."""
        if self._drifted:
            self._detector, self._drifted = self._make(), False
