"""Metrics of the worker that keeps the text encoder learning."""

import logging

from services.common.metrics import Metrics

log = logging.getLogger(__name__)


class TextMeters:
    """An observer that counts, and writes releases and failures to the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._pairs = metrics.counter("text_pairs_total", "Pairs of a search and a chosen item learned from")
        self._steps = metrics.counter("text_steps_total", "Updates of the text encoder")
        self._work = metrics.counter("text_work_seconds_total", "Seconds spent in updates of the text encoder")
        self._loss = metrics.gauge("text_loss", "Contrastive loss of the last update, before it")
        self._releases = metrics.counter("text_releases_total", "Encoders exported")
        self._seconds = metrics.gauge("text_release_seconds", "Seconds the last export of an encoder took")
        self._figure = metrics.gauge(
            "text_figures",
            "Figures of the last encoder exported: of lists before they were learned, of the first lists (early_), and"
            " of the encoder it began from on the same (base_)",
            ("figure",),
        )
        self._failures = metrics.counter("text_failures_total", "What was given up while the loop went on", ("what",))

    def learned(self, pairs: int, loss: float, seconds: float) -> None:
        """See `Observer`."""
        self._pairs.inc(pairs)
        self._steps.inc()
        self._work.inc(seconds)
        self._loss.set(loss)

    def released(self, name: str, metrics: dict[str, float], seconds: float) -> None:
        """See `Observer`."""
        self._releases.inc()
        self._seconds.set(seconds)
        for figure, value in metrics.items():
            self._figure.labels(figure).set(value)
        log.info("exported", extra={"encoder": name, "seconds": seconds, **metrics})

    def failed(self, what: str, error: Exception) -> None:
        """See `Observer`."""
        self._failures.labels(what).inc()
        log.warning("given up", extra={"what": what, "error": f"{type(error).__name__}: {error}"})
