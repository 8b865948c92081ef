"""A trace goes from the caller through the gateway onto the log."""

from pathlib import Path
from typing import Any

from freshrank.v1 import events_pb2 as ev
from freshrank.v1 import ranking_pb2 as pb
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.common.tracing import Tracing, context_of
from tests.gateway.shop import Shop
from tests.gateway.test_grpc import Running

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_records_carry_the_span_of_the_call_which_is_linked_to_the_callers(tmp_path: Path) -> None:
    exporter, shop = InMemorySpanExporter(), Shop(tmp_path)
    tracing, headers = Tracing("gateway", exporter, share=1.0), list[dict[str, bytes]]()
    send = shop.sends.parcel

    def parcel(one: Any) -> Any:
        headers.append(tracing.headers())
        return send(one)

    shop.sends.parcel = parcel  # type: ignore[method-assign]
    async with Running(shop, tracing=tracing) as running:
        event = ev.Event(event_id="1", kind=ev.EVENT_KIND_CLICK, user_id="ada", item_id="i1")
        await running.stub.Track(pb.TrackRequest(events=[event]), metadata=(("traceparent", CALLER),))
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "Track"
    assert format(span.links[0].context.trace_id, "032x") == CALLER.split("-")[1]
    assert context_of(headers[0]).span_id == span.context.span_id
