"""The trainer's metrics."""

from collections.abc import Mapping, Sequence

from services.common.clock import Clock
from services.common.metrics import Metrics
from services.trainer.examples import Batch
from services.trainer.strategies.base import Learned


class Meters:
    """An observer that counts."""

    def __init__(self, metrics: Metrics, clock: Clock, budget: float = 0.0) -> None:
        """`budget`: epsilon at which private learning stops; 0 = not private."""
        self._clock = clock
        self._messages = metrics.counter("messages_total", "Messages of examples learned from")
        self._steps = metrics.counter("steps_total", "Updates made")
        self._skipped = metrics.counter("skipped_steps_total", "Updates given up because a gradient was not finite")
        self._work = metrics.counter("work_seconds_total", "Seconds spent in scoring and learning")
        self._loss = metrics.gauge("loss", "Summed loss of the last batch over the weight of what appeared in it")
        self._rows = metrics.counter("delta_rows_total", "Rows written for the publisher")
        self._delta = metrics.gauge("delta_seq", "Sequence of the newest row delta")
        self._fresh = metrics.histogram(
            "freshness_seconds", "From the arrival of an action to the delta with the rows it changed"
        )
        self._releases = metrics.counter("releases_total", "Candidates exported")
        self._release_seconds = metrics.gauge("release_seconds", "Seconds the last checkpoint and export took")
        self._learned = metrics.gauge("examples_learned", "Examples learned from since the beginning")
        self._figure = metrics.gauge(
            "progressive", "Figures of the last candidate on impressions before learning", ("figure",)
        )
        self._holds = metrics.counter("holds_total", "Due releases that waited for a representative slice")
        self._maintained = metrics.counter("maintenance_total", "Releases preceded by more than a step", ("action",))
        self._epsilon = metrics.gauge("privacy_epsilon", "Epsilon that private learning has spent; 0 = not private")
        metrics.gauge("privacy_budget", "Epsilon at which private learning stops; 0 = not private").set(budget)
        self._failures = metrics.counter("failures_total", "What was given up while the loop went on", ("what",))

    def learned(self, batch: Batch, steps: Sequence[Learned], seconds: float) -> None:
        """See `Observer`."""
        self._messages.inc(sum(len(values) for values in batch.messages.values()))
        self._steps.inc(len(steps))
        self._skipped.inc(sum(step.skipped for step in steps))
        self._work.inc(seconds)
        for step in steps:
            self._epsilon.set(step.epsilon or 0.0)
        weight = sum(step.weight for step in steps)
        if weight:
            self._loss.set(sum(step.loss for step in steps) / weight)

    def delta(self, seq: int, rows: int, oldest_received_us: int) -> None:
        """See `Observer`."""
        self._rows.inc(rows)
        self._delta.set(seq)
        if oldest_received_us:
            self._fresh.observe(max(0, self._clock.now_us() - oldest_received_us) / 1e6)

    def released(self, name: str, metrics: Mapping[str, float], learned: int, seconds: float) -> None:
        """See `Observer`."""
        self._releases.inc()
        self._release_seconds.set(seconds)
        self._learned.set(learned)
        for figure, value in metrics.items():
            self._figure.labels(figure).set(value)

    def held(self, why: str) -> None:
        """See `Observer`."""
        self._holds.inc()

    def maintained(self, action: str, why: str) -> None:
        """See `Observer`."""
        self._maintained.labels(action).inc()

    def failed(self, what: str, error: Exception) -> None:
        """See `Observer`."""
        self._failures.labels(what).inc()
