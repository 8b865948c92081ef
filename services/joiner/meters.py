"""What the joiner counts. No label ever holds a user or an item."""

from services.common.metrics import Metrics
from services.common.records import CLOSED, FLIP, FORGET, INITIAL
from services.joiner.examples import Outputs

_KINDS = {INITIAL: "initial", FLIP: "flip", CLOSED: "closed", FORGET: "forget"}
_SAMPLES = 32


class Meters:
    """Counters, levels and distributions of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._examples = metrics.counter("examples_total", "rows of examples by kind", ("kind",))
        self._actions = metrics.counter("actions_total", "actions by what became of them", ("outcome",))
        self._others = metrics.counter(
            "events_total", "repeated, forgotten, evicted, closed early, refused", ("event",)
        )
        self._bytes = metrics.counter("emitted_bytes_total", "bytes written to examples")
        self._freshness = metrics.histogram(
            "freshness_seconds", "arrival of the cause to its example being acknowledged"
        )
        self._work = metrics.counter("work_seconds_total", "seconds spent folding")
        self._open = metrics.gauge("open_impressions", "impressions inside the click window", ("partition",))
        self._clicked = metrics.gauge("spilled_rows", "clicked rows waiting on disk for slower heads", ("partition",))
        self._held = metrics.gauge("held_actions", "actions waiting for their impression", ("partition",))
        self._spill = metrics.gauge("spill_bytes", "bytes of the spill file", ("partition",))

    def folded(self, seconds: float) -> None:
        """Count the time one step took."""
        self._work.inc(seconds)

    def spilled(self, partition: int, size_bytes: int) -> None:
        """The size of a partition's spill file."""
        self._spill.labels(str(partition)).set(size_bytes)

    def emitted(self, partition: int, out: Outputs, now_us: int) -> None:
        """Count a step whose every write was acknowledged."""
        for kind, count in out.examples.items():
            self._examples.labels(_KINDS[kind]).inc(count)
        for outcome, count in out.actions.items():
            self._actions.labels(outcome).inc(count)
        for event, count in out.others.items():
            self._others.labels(event).inc(count)
        self._bytes.inc(sum(map(len, out.messages)))
        self._open.labels(str(partition)).set(out.open_impressions)
        self._clicked.labels(str(partition)).set(out.spilled_rows)
        self._held.labels(str(partition)).set(out.held_actions)
        received = out.received_us
        for received_us in received[:: max(1, len(received) // _SAMPLES)]:
            self._freshness.observe(max(0, now_us - received_us) / 1e6)
