"""What the service counts. No label ever holds a user or an item."""

from services.common.metrics import Metrics
from services.features.fold import Outputs


class Meters:
    """Counters, levels and distributions of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._rows = metrics.counter("rows_total", "rows of the log by what became of them", ("topic", "outcome"))
        self._written = metrics.counter("written_total", "rows written to the online store", ("view",))
        self._dropped = metrics.counter("dropped_total", "rows older than what is stored", ("view",))
        self._work = metrics.counter("work_seconds_total", "seconds spent folding", ("topic",))
        self._freshness = metrics.histogram(
            "freshness_seconds", "arrival of an event to its feature being stored, oldest of each batch", ("view",)
        )
        self._republished = metrics.counter(
            "republished_total", "times all keys of a view were written again", ("view",)
        )
        self._refused = metrics.counter("plans_refused_total", "versions of the registry that cannot be computed")
        self._filled = metrics.counter("fills_total", "back-fills by what became of them", ("outcome",))
        self._keys = metrics.gauge("keys", "keys held", ("view", "partition"))

    def folded(self, topic: str, seconds: float, out: Outputs) -> None:
        """Count one step."""
        self._work.labels(topic).inc(seconds)
        for outcome, count in out.counts.items():
            self._rows.labels(topic, outcome).inc(count)

    def written(self, view: str, written: int, dropped: int, oldest_us: int, now_us: int) -> None:
        """Count rows that were acknowledged; `oldest_us`: arrival of the oldest event in them, 0 = none."""
        self._written.labels(view).inc(written)
        self._dropped.labels(view).inc(dropped)
        if oldest_us:
            self._freshness.labels(view).observe(max(0, now_us - oldest_us) / 1e6)

    def held(self, view: str, partition: int, keys: int) -> None:
        """The size of a view's state."""
        self._keys.labels(view, str(partition)).set(keys)

    def republished(self, view: str) -> None:
        """Every key of a view is written again."""
        self._republished.labels(view).inc()

    def refused(self) -> None:
        """A version of the registry was refused."""
        self._refused.inc()

    def filled(self, outcome: str) -> None:
        """A back-fill ended: merged or dropped."""
        self._filled.labels(outcome).inc()
