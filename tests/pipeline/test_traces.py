"""One trace from the gateway's record through ingest and joiner to what the trainer learns, as a collector sees it."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from freshrank.v1.events_pb2 import Impression, ImpressionItem, Inbound
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from services.common.topics import EVENTS, EXAMPLES
from services.demo.tools import Tools
from tests.pipeline.loop import Loop, eventually

pytestmark = pytest.mark.pipeline

TRACE = uuid.uuid4().hex
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """An OpenTelemetry collector that keeps spans."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            names = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            self.spans += [(names[0], span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace: str) -> dict[str, Any]:
        """The spans of a trace by service."""
        return {service: span for service, span in self.spans if span.trace_id.hex() == trace}


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    made, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"127.0.0.1:{port}"
    server.stop(None).wait()


async def test_a_record_is_followed_to_what_is_learned(
    tools: Tools, tmp_path: Path, collector: tuple[Collector, str]
) -> None:
    seen, address = collector
    settings = {"FRESHRANK_OTLP_ENDPOINT": address}
    loop = Loop(tmp_path, tools, settings, partitions=1, services=("ingest", "joiner", "trainer"))
    loop.start()
    try:
        write(loop)
        spans = await eventually(lambda: len(found := seen.of(TRACE)) == 3 and found, 30)
        headers = traces_of_examples(loop)
    finally:
        loop.stop()
    ingest, joiner = spans["freshrank-ingest"], spans["freshrank-joiner"]
    assert (ingest.name, ingest.parent_span_id.hex()) == ("events.in step", CALLER.split("-")[2])
    assert (joiner.name, joiner.parent_span_id) == ("interactions step", ingest.span_id)
    trainer = spans["freshrank-trainer"]
    assert (trainer.name, trainer.parent_span_id) == ("examples step", joiner.span_id)
    assert trainer.end_time_unix_nano > trainer.start_time_unix_nano >= joiner.start_time_unix_nano
    assert f"00-{TRACE}-{joiner.span_id.hex()}-01".encode() in headers


def write(loop: Loop) -> None:
    """An impression as the gateway sends it."""
    now_us = time.time_ns() // 1000
    items = [ImpressionItem(item_id=item, position=place, shown=True) for place, item in enumerate("ab")]
    shown = Impression(impression_id=uuid.uuid4().hex, user_id="ada", time_us=now_us, items=items)
    value = Inbound(impression=shown, received_us=now_us).SerializeToString()
    producer = Producer({"bootstrap.servers": loop.bootstrap})
    producer.produce(EVENTS.name, value, partition=0, headers=[("traceparent", CALLER.encode())])
    assert producer.flush(10) == 0


def traces_of_examples(loop: Loop) -> list[bytes]:
    """`traceparent` of every record of examples."""
    consumer = Consumer({"bootstrap.servers": loop.bootstrap, "group.id": "traces", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(EXAMPLES.name, 0, 0)])
        messages = consumer.consume(100, 5.0)
        return [value for message in messages for name, value in message.headers() or () if name == "traceparent"]
    finally:
        consumer.close()
