"""One trace goes through Kafka: its context is a header of the record."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common.tracing import Tracing, context_of, tracing_for


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    made = Tracing("shop", exporter, share=1.0)
    yield made
    made.close()


def test_the_context_crosses_in_the_header_of_the_w3c(tracing: Tracing) -> None:
    with tracing.span("send") as span:
        headers = tracing.headers()
    context = context_of(headers)
    assert set(headers) == {"traceparent"}
    assert (context.trace_id, context.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert context.is_remote


def test_a_batch_is_linked_to_all_it_came_from(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    senders, headers = [], []
    for name in ("one", "two"):
        with tracing.span(name) as span:
            senders.append(span.get_span_context().span_id)
            headers.append(tracing.headers())
    with tracing.span("fold", [*headers, {}, {"traceparent": b"rubbish"}, {"traceparent": b"\xff"}]):
        pass
    tracing.close()
    fold = next(span for span in exporter.get_finished_spans() if span.name == "fold")
    assert [link.context.span_id for link in fold.links] == senders
    assert fold.resource.attributes["service.name"] == "freshrank-shop"


def test_a_step_goes_on_with_the_first_trace_that_is_looked_at(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    looked_at = [b"00-%032x-%016x-01" % (number, number) for number in (5, 6)]
    with tracing.follow("step", [b"", b"rubbish", b"00-%032x-%016x-00" % (4, 4), *looked_at, looked_at[0]]):
        assert tracing.headers()["traceparent"].startswith(b"00-%032x-" % 5)
    with tracing.follow("nobody looks", [b"00-%032x-%016x-00" % (4, 4)]) as nobody:
        assert nobody is trace.INVALID_SPAN
    tracing.close()
    (step,) = exporter.get_finished_spans()
    assert (step.context.trace_id, step.parent and step.parent.span_id) == (5, 5)
    assert [link.context.trace_id for link in step.links] == [6]


def test_spans_inside_are_children(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.span("outer") as outer, tracing.span("inner"):
        pass
    tracing.close()
    inner = next(span for span in exporter.get_finished_spans() if span.name == "inner")
    assert inner.parent is not None
    assert inner.parent.span_id == outer.get_span_context().span_id


def test_nothing_is_recorded_or_sent_along_without_a_collector() -> None:
    off = tracing_for("shop", "")
    with off.span("send") as span:
        assert off.headers() == {}
    assert span is trace.INVALID_SPAN
    off.close()


def test_what_was_not_sampled_before_is_not_sampled_after(exporter: InMemorySpanExporter) -> None:
    never = Tracing("shop", exporter, share=0.0)
    with never.span("send") as span, never.span("inside"):
        assert not span.is_recording()
        assert not context_of(never.headers()).trace_flags.sampled
    never.close()
    assert exporter.get_finished_spans() == ()
