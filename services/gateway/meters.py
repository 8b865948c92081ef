"""What the gateway measures."""

from dataclasses import fields
from time import perf_counter

from freshrank.v1.events_pb2 import Degradation
from prometheus_client import Histogram

from services.common.metrics import FRESHNESS_BUCKETS, LATENCY_BUCKETS, Metrics
from services.gateway.calls import Ages
from services.gateway.candidates import Candidates
from services.gateway.ladder import Rung

STAGES = ("text", "retrieve", "items", "features", "inputs", "score", "rerank")
AGES = tuple(field.name for field in fields(Ages))


class Timed:
    """The time between entering and leaving, observed."""

    __slots__ = ("_histogram", "_start")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(perf_counter() - self._start)


class Meters:
    """The gateway's metrics; no label ever holds a user or an item."""

    def __init__(self, metrics: Metrics) -> None:
        self.registry = metrics.registry
        self.requests = metrics.counter("requests_total", "calls answered", ("method", "code"))
        self.seconds = metrics.histogram("request_seconds", "time of a call", ("method",), LATENCY_BUCKETS)
        stages = metrics.histogram("stage_seconds", "time of a stage", ("stage",), LATENCY_BUCKETS)
        self._stages = {name: stages.labels(name) for name in STAGES}
        self.degraded = metrics.counter("degradations_total", "answers by rung of the ladder", ("rung",))
        self.faults = metrics.counter("part_failures_total", "failures of parts, by part and error", ("part", "error"))
        ages = metrics.histogram(
            "age_seconds", "age of what an answer was computed from, at the reader", ("what",), FRESHNESS_BUCKETS
        )
        self._ages = {field: ages.labels(field.removesuffix("_ms")) for field in AGES}
        self.impressions = metrics.counter("impressions_total", "impressions by what became of them", ("outcome",))
        self.events = metrics.counter("events_total", "events tracked, by outcome", ("outcome",))
        self.items = metrics.gauge("table_items", "items in the item table")
        self.table_age = metrics.gauge("table_age_seconds", "since the table's writer was last alive")
        self.missing = metrics.counter("candidates_missing_total", "candidates the item table did not hold")
        self.candidates = metrics.counter("candidates_total", "candidates ranked")
        self.with_row = metrics.counter("candidates_with_row_total", "candidates that had an embedding row")
        self.with_text_row = metrics.counter(
            "candidates_with_text_row_total", "candidates whose row was made from their text alone"
        )

    def stage(self, name: str) -> "Timed":
        """Times a stage of a request, one of STAGES: a context."""
        return Timed(self._stages[name])

    def count(self, candidates: Candidates, rung: Rung) -> None:
        """Count an answer's candidates and its rung."""
        self.degraded.labels(Degradation.Name(rung).removeprefix("DEGRADATION_").lower()).inc()
        self.candidates.inc(len(candidates))
        self.with_row.inc(int(candidates.rows.mask.sum()))
        by_text = candidates.rows.mask & (candidates.rows.time_us == 0) & (candidates.slots >= 0)
        self.with_text_row.inc(int(by_text.sum()))
        self.missing.inc(int((candidates.slots < 0).sum()))

    def ages(self, ages: Ages) -> None:
        """Record the ages of an answer; what is not there is not counted."""
        for field, histogram in self._ages.items():
            ms = getattr(ages, field)
            if ms >= 0:
                histogram.observe(ms / 1e3)
