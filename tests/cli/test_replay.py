"""What a replay says at its end."""

import math

from services.cli.output import plain
from services.cli.replay import summary
from services.demo.record import Answer, Record


def answer(release: str, clicked: str, latency_ms: float) -> Answer:
    """Two items, the first scored higher."""
    return Answer(0, release, 1, "", ["a", "b"], [0.9, 0.1], latency_ms, (0, 0, 0, 0), {clicked})


def test_answers_events_and_failures_are_summed_up() -> None:
    found = Record()
    for release, clicked, latency_ms in (("r1", "a", 2.0), ("r2", "a", 4.0), ("", "b", 40.0)):
        found.answered(answer(release, clicked, latency_ms))
    found.acknowledged("e-1", "ada", 2, 0, 0, 0)
    found.refused["malformed"] += 3
    figures = summary("trivago", found)
    assert (figures["events_acknowledged"], figures["rankings"], figures["releases"]) == (1, 3, 2)
    assert (figures["answer_p50_ms"], figures["answer_p99_ms"]) == (4.0, 40.0)
    assert (figures["auc"], figures["refused"], figures["failed"]) == (2 / 3, {"malformed": 3}, {})


def test_without_answers_there_are_no_figures_and_still_a_document() -> None:
    figures = summary("trivago", Record())
    assert math.isnan(figures["auc"])
    assert plain(figures)["auc"] is None
    assert figures["answer_p99_ms"] is None
