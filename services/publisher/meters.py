"""What the publisher measures about itself."""

import math
from collections.abc import Callable, Mapping

from services.common.metrics import Metrics
from services.publisher.checks import Check, Verdict
from services.publisher.deltas import Delta
from services.publisher.rows import MEASURED
from services.text.folder import RERANKER

DECISIONS = ("promoted", "held", "refused", "rolled_back")


class Meters:
    """Counters, gauges and distributions; `now_us` gives the time of day for freshness."""

    def __init__(self, metrics: Metrics, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._rows = metrics.counter("rows_pushed_total", "Rows written to the store", ("kind",))
        self._deltas = metrics.counter("deltas_total", "Row deltas judged", ("verdict",))
        self._refused = metrics.counter("checks_failed_total", "Checks that did not hold", ("gate", "check"))
        self._row_checks = metrics.gauge(
            "row_checks", "Figures of the newest row delta as shares of their bounds; above 1 is refused", ("check",)
        )
        self._age = metrics.histogram("row_freshness_seconds", "Event time of the rows' newest example to their push")
        self._decisions = metrics.counter("releases_total", "Decisions on releases", ("decision",))
        for decision in DECISIONS:  # a count that begins with its first event hides that event from `increase`
            self._decisions.labels(decision)
        self._seconds = metrics.histogram("release_seconds", "From export to routed, held or refused", ("decision",))
        self._judging = metrics.histogram("gate_seconds", "Time that the release gate takes")
        self._compressed = metrics.counter("compressions_total", "Candidates compressed and judged", ("verdict",))
        self._compressing = metrics.histogram("compression_seconds", "Time that compressing and its gate take")
        self._vectors = metrics.counter("text_vectors_total", "Vectors of items' texts made")
        self._due = metrics.gauge("text_vectors_due", "Texts of items whose vector is still to be made")
        self._text_rows = metrics.gauge(
            "text_rows", "Items with a row of their text (text) or mixed with it (blended), and rows to be sent (due)",
            ("kind",),
        )  # fmt: skip
        self._text_map = metrics.gauge(
            "text_map", "Of the last fit of rows to texts: used, r2 and gain of log-loss on held-out items, items",
            ("figure",),
        )  # fmt: skip
        self._encoders = metrics.counter("encoders_total", "Decisions on text encoders", ("decision",))
        self._found = metrics.gauge(
            "text_watch",
            "Shoppers counted, and their share with a click on what they searched for, by the text encoder that is"
            " watched and by the one before (_before)",
            ("figure",),
        )
        self._rerankers = metrics.counter("rerankers_total", "Decisions on rerankers", ("decision",))
        for decision in ("promoted", "refused", "rolled_back"):
            self._encoders.labels(decision)
            self._rerankers.labels(decision)
        self._watch = metrics.gauge("watch", "Figures of the champion's watch", ("figure",))
        self._trial = metrics.gauge("trial", "Figures of a challenger against the incumbent", ("arm", "figure"))
        self._healed = metrics.counter("healed_total", "Models loaded anew after a failed golden request")
        self._state = metrics.gauge(
            "state", "1 while it holds: leader, rows_stopped, rows_lost, undo, frozen_<part>", ("state",)
        )
        self._faults = metrics.counter("faults_total", "Steps that failed and are tried again", ("loop",))
        self._impressions = metrics.gauge("impressions", "Impressions kept for the gate")

    def pushed(self, delta: Delta) -> None:
        """A delta is in the store."""
        self._rows.labels("item").inc(len(delta.items))
        self._rows.labels("user").inc(len(delta.users))
        self._age.observe(max(0, self._now_us() - delta.learned_up_to_us) / 1e6)

    def judged(self, verdict: Verdict) -> None:
        """A delta was judged."""
        self._deltas.labels("passed" if verdict.passed else "refused").inc()
        for check in sorted(verdict.checks, key=_share):  # of item and user rows the one nearer to its bound
            if check.name in MEASURED:
                self._row_checks.labels(check.name).set(_share(check))
        self._failed("rows", verdict)

    def examined(self, verdict: Verdict, seconds: float) -> None:
        """A candidate was judged."""
        self._judging.observe(seconds)
        self._failed("release", verdict)

    def compressed(self, verdict: Verdict, seconds: float) -> None:
        """A candidate was compressed and judged."""
        self._compressed.labels("passed" if verdict.passed else "refused").inc()
        self._compressing.observe(seconds)
        self._failed("compression", verdict)

    def decided(self, decision: str, seconds: float) -> None:
        """A release was decided on, so long after its export."""
        self._decisions.labels(decision).inc()
        self._seconds.labels(decision).observe(seconds)

    def vectors(self, made: int, due: int) -> None:
        """Vectors of texts were made, and so many are due."""
        self._vectors.inc(made)
        self._due.set(due)

    def text_rows(self, counts: Mapping[str, int]) -> None:
        """Items by what their rows are made of."""
        for kind, count in counts.items():
            self._text_rows.labels(kind).set(count)

    def text_map(self, figures: Mapping[str, float]) -> None:
        """A fit of rows to texts was judged."""
        for figure, value in figures.items():
            self._text_map.labels(figure).set(value)

    def text_model(self, kind: str, decision: str) -> None:
        """A text encoder or a reranker was decided on."""
        (self._rerankers if kind == RERANKER else self._encoders).labels(decision).inc()

    def encoder_watched(self, figures: Mapping[str, float]) -> None:
        """A text encoder is watched."""
        for figure, value in figures.items():
            self._found.labels(figure).set(value)

    def watched(self, verdict: Verdict, figures: Mapping[str, float]) -> None:
        """The watch looked."""
        self._failed("watch", verdict)
        for name, value in figures.items():
            self._watch.labels(name).set(value)

    def compared(self, arm: str, figures: Mapping[str, float]) -> None:
        """A challenger was looked at."""
        for name, value in figures.items():
            self._trial.labels(arm, name).set(value)

    def healed(self, count: int) -> None:
        """Models were loaded anew."""
        self._healed.inc(count)

    def holds(self, **states: bool) -> None:
        """Set states."""
        for name, truth in states.items():
            self._state.labels(name).set(truth)

    def fault(self, loop: str) -> None:
        """A step failed and is taken again."""
        self._faults.labels(loop).inc()

    def kept(self, impressions: int) -> None:
        """So many impressions are kept."""
        self._impressions.set(impressions)

    def _failed(self, gate: str, verdict: Verdict) -> None:
        for check in verdict.failed:
            self._refused.labels(gate, check.name).inc()


def _share(check: Check) -> float:
    """The figure over its bound; no number counts as far beyond it."""
    if math.isnan(check.figure):
        return math.inf
    return check.figure / check.bound if check.bound > 0 else 0.0
