"""What ingest counts. No label ever holds a user or an item."""

from services.common.metrics import Metrics
from services.ingest.outputs import Outputs

_SAMPLES = 32


class Meters:
    """Counters and distributions of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._records = metrics.counter("records_total", "records by what became of them", ("outcome",))
        self._dead = metrics.counter("dead_letters_total", "records refused, by reason", ("reason",))
        self._steps = metrics.counter("cleaned_total", "drafts a cleaning step changed, dropped or refused", ("step",))
        self._missing = metrics.counter("missing_total", "rows without a value, by column", ("column",))
        self._bytes = metrics.counter("emitted_bytes_total", "bytes written to interactions")
        self._freshness = metrics.histogram("freshness_seconds", "arrival of a record to its row being acknowledged")
        self._work = metrics.counter("work_seconds_total", "seconds spent folding; with records_total the cost of each")
        self._version = metrics.gauge("clip_version", "version of the bounds for outliers", ("partition",))
        self.ticks = metrics.counter("ticks_total", "ticks written")
        self.catalogue_items = metrics.gauge("catalogue_items", "items whose category and price are known")

    def folded(self, seconds: float) -> None:
        """Count the time one step took."""
        self._work.inc(seconds)

    def emitted(self, partition: int, out: Outputs, now_us: int) -> None:
        """Count a step whose every write was acknowledged."""
        for outcome, count in out.outcomes.items():
            self._records.labels(outcome).inc(count)
        for reason, count in out.reasons.items():
            self._dead.labels(reason).inc(count)
        for step, count in out.steps.items():
            self._steps.labels(step).inc(count)
        for column, count in out.missing.items():
            self._missing.labels(column).inc(count)
        self._bytes.inc(sum(map(len, out.messages)))
        self._version.labels(str(partition)).set(out.clip_version)
        # An evenly spaced sample: one observation costs as much as cleaning a tenth of an event.
        received = out.received_us
        for received_us in received[:: max(1, len(received) // _SAMPLES)]:
            self._freshness.observe(max(0, now_us - received_us) / 1e6)
