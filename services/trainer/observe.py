"""Who wants to know what the loop does: metrics, TensorBoard, a test. Nobody, by default."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.common.clock import Clock
from services.common.topics import EXAMPLES
from services.common.tracing import Tracing
from services.trainer.examples import Batch
from services.trainer.strategies.base import Learned


class Observer(Protocol):
    """Told after the fact; must not raise."""

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """A batch was learned from."""
        ...

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        """Rows were written for the publisher; `oldest_received_us`: of the actions that changed them, 0 = none."""
        ...

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """A candidate was exported."""
        ...

    def held(self, why: str) -> None:
        """A due release begins to wait, because of this."""
        ...

    def maintained(self, action: str, why: str) -> None:
        """The maintenance policy has chosen more than a step, because of this."""
        ...

    def failed(self, what: str, error: Exception) -> None:
        """Something was given up and the loop goes on: "export", "champion", "control", "features", "tracker"."""
        ...


class Nobody:
    """Does not want to know."""

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """Nothing."""

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        """Nothing."""

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """Nothing."""

    def held(self, why: str) -> None:
        """Nothing."""

    def maintained(self, action: str, why: str) -> None:
        """Nothing."""

    def failed(self, what: str, error: Exception) -> None:
        """Nothing."""


class Scalars(Nobody, ABC):
    """Gathers what is drawn over examples learned: it is written with each release, not with every batch."""

    def __init__(self) -> None:
        self._loss = self._weight = 0.0

    @abstractmethod
    def write(self, values: Mapping[str, float], learned: int) -> None:
        """Keep values by name, as of so many examples learned."""

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """See `Observer`."""
        self._loss += sum(step.loss for step in steps)
        self._weight += sum(step.weight for step in steps)

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """Training loss since the last release, and the progressive figures."""
        values = {"training/loss": self._loss / self._weight} if self._weight else {}
        self._loss = self._weight = 0.0
        values |= {"training/release_seconds": seconds}
        self.write(values | {f"progressive/{figure}": value for figure, value in metrics.items()}, learned)


class Logged(Nobody):
    """Writes releases, what holds them, and failures to a log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """See `Observer`."""
        self._log.info("exported", extra={"release": name, "learned": learned, "seconds": seconds, **metrics})

    def held(self, why: str) -> None:
        """See `Observer`."""
        self._log.info("held", extra={"why": why})

    def maintained(self, action: str, why: str) -> None:
        """See `Observer`."""
        self._log.info("maintained", extra={"action": action, "why": why})

    def failed(self, what: str, error: Exception) -> None:
        """See `Observer`."""
        self._log.warning("given up", extra={"what": what, "error": f"{type(error).__name__}: {error}"})


class All:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.learned(batch, steps, seconds)

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.delta(seq, rows, oldest_received_us)

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.released(name, metrics, learned, seconds)

    def held(self, why: str) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.held(why)

    def maintained(self, action: str, why: str) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.maintained(action, why)

    def failed(self, what: str, error: Exception) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.failed(what, error)


class Traced(Nobody):
    """Goes on with the traces of the examples that were learned from."""

    def __init__(self, tracing: Tracing, clock: Clock) -> None:
        self._tracing, self._clock = tracing, clock

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """A span of the batch."""
        self._tracing.followed(f"{EXAMPLES.name} step", batch.traces, self._clock.now_us() - int(seconds * 1e6))
