"""Traces that cross Kafka: the context travels in the record header `traceparent` (W3C Trace Context)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_FORMAT = TraceContextTextMapPropagator()

MOST_LINKS = 32
"""Of one span: a step may follow from hundreds of records."""


class Tracing:
    """Spans of one service. Without an exporter nothing is recorded and nothing costs."""

    def __init__(self, service: str, exporter: SpanExporter | None = None, share: float = 0.01) -> None:
        self._on = exporter is not None
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": f"freshrank-{service}"}),
            sampler=ParentBased(TraceIdRatioBased(share if self._on else 0.0)),
        )
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("freshrank")

    @contextmanager
    def span(self, name: str, headers: Sequence[Mapping[str, bytes]] = ()) -> Iterator[Span]:
        """A span linked to the spans whose headers are given: one batch follows from many requests."""
        if not self._on:
            yield trace.INVALID_SPAN
            return
        links = [Link(context) for context in map(context_of, headers) if context.is_valid]
        with self._tracer.start_as_current_span(name, links=links) as span:
            yield span

    @contextmanager
    def follow(self, name: str, traces: Sequence[bytes]) -> Iterator[Span]:
        """A span that goes on with the first of the traces that somebody looks at, and is linked to the others.

        `traces`: values of the header `traceparent`. Without one that is sampled nothing is recorded.
        """
        span = self._begun(name, traces)
        if span is None:
            yield trace.INVALID_SPAN
            return
        with trace.use_span(span, end_on_exit=True):
            yield span

    def followed(self, name: str, traces: Sequence[bytes], began_us: int) -> None:
        """The same, of something that has just ended."""
        span = self._begun(name, traces, began_us * 1000)
        if span is not None:
            span.end()

    def _begun(self, name: str, traces: Sequence[bytes], start_ns: int | None = None) -> Span | None:
        found = [context_of({"traceparent": value}) for value in dict.fromkeys(traces) if value] if self._on else []
        found = [context for context in found if context.is_valid and context.trace_flags.sampled][:MOST_LINKS]
        if not found:
            return None
        parent = trace.set_span_in_context(trace.NonRecordingSpan(found[0]))
        links = [Link(context) for context in found[1:]]
        return self._tracer.start_span(name, context=parent, links=links, start_time=start_ns)

    def headers(self) -> dict[str, bytes]:
        """Headers of the current span for a Kafka record; empty when there is none."""
        carrier: dict[str, str] = {}
        if self._on:
            _FORMAT.inject(carrier)
        return {name: value.encode() for name, value in carrier.items()}

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def trace_of(headers: Sequence[tuple[str, bytes]] | None) -> bytes:
    """The header `traceparent` of a Kafka record; empty when it has none."""
    return dict(headers).get("traceparent") or b"" if headers else b""


def context_of(headers: Mapping[str, bytes]) -> trace.SpanContext:
    """The span a record came from.

    >>> context_of({}).is_valid
    False
    """
    carrier = {name: value.decode("ascii", "replace") for name, value in headers.items() if value}
    return trace.get_current_span(_FORMAT.extract(carrier)).get_span_context()


def tracing_for(service: str, endpoint: str) -> Tracing:
    """Tracing to an OpenTelemetry collector at host:port; off when the address is empty."""
    return Tracing(service, OTLPSpanExporter(endpoint=endpoint, insecure=True) if endpoint else None)
