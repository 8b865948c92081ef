"""UCI Online Retail: a year of invoices of a gift shop. An invoice is a request and the purchases that follow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.loaders.steps import Ask, Stock, Tell

Kind = events_pb2.EventKind


def steps(folder: Path) -> Iterator[Ask | Tell | Stock]:
    """Invoices in time order; cancelled ones and those without a customer are left out."""
    import pandas as pd

    frame = pd.read_parquet(folder / "invoices.parquet")
    frame = frame[~frame.InvoiceNo.str.startswith("C") & frame.CustomerID.notna() & (frame.Quantity > 0)]
    frame = frame.sort_values("InvoiceDate", kind="stable")
    yield from _catalogue(frame)
    for invoice, lines in frame.groupby("InvoiceNo", sort=False):
        yield _visit(str(invoice), lines)


def _catalogue(frame: Any) -> Iterator[Stock]:
    first = frame.drop_duplicates("StockCode")
    items = [
        ranking_pb2.Item(item_id=row.StockCode, title=str(row.Description or "").strip().lower(), price=row.UnitPrice)
        for row in first.itertuples(index=False)
    ]
    for start in range(0, len(items), 500):
        yield Stock(items[start : start + 500])


def _visit(invoice: str, lines: Any) -> Ask:
    head = lines.iloc[0]
    time_us = int(head.InvoiceDate.value // 1000)
    user = f"c{head.CustomerID}"
    context = events_pb2.Context(region=head.Country[:64], device="desktop", platform="web")
    events = [
        events_pb2.Event(
            event_id=f"retail-{invoice}-{index}",
            kind=Kind.EVENT_KIND_PURCHASE,
            user_id=user,
            session_id=invoice,
            item_id=row.StockCode,
            event_time_us=time_us,
            quantity=float(row.Quantity),
            value=float(row.Quantity * row.UnitPrice),
            context=context,
            source="online-retail",
        )
        for index, row in enumerate(lines.itertuples(index=False))
    ]
    shopper = ranking_pb2.Shopper(user_id=user, session_id=invoice, context=context)
    return Ask(time_us, shopper, events=events)
