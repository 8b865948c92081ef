"""RecSys Challenge 2019 (trivago): sessions of hotel seekers with the impressions and prices they saw.

A clickout row is a request with exactly its candidates in the order shown; every other row is an event.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.loaders.steps import Ask, Stock, Tell

Kind = events_pb2.EventKind
_VIEWS = frozenset(
    {"interaction item image", "interaction item info", "interaction item deals", "interaction item rating"}
)


def steps(folder: Path) -> Iterator[Ask | Tell | Stock]:
    """The day in time order, ties in the order of the file."""
    import pandas as pd  # an extra of the demo, not of the services

    frame = pd.read_parquet(folder / "actions-2018-11-07.parquet").sort_values("timestamp", kind="stable")
    for number, row in enumerate(frame.itertuples(index=False)):
        if row.action_type == "clickout item" and row.impressions:
            yield _ask(row, number)
        else:
            yield Tell(row.timestamp * 1_000_000, [_event(row, number)])


def _ask(row: Any, number: int) -> Ask:
    ids, prices = row.impressions.split("|"), row.prices.split("|")
    candidates = [
        ranking_pb2.Candidate(item_id=item, prior_rank=rank, price=float(price))
        for rank, (item, price) in enumerate(zip(ids, prices, strict=True), start=1)
    ]
    event = _event(row, number, Kind.EVENT_KIND_CLICK)
    shopper = ranking_pb2.Shopper(user_id=row.user_id, session_id=row.session_id, context=_context(row))
    return Ask(row.timestamp * 1_000_000, shopper, candidates, [event], wanted=str(row.reference))


def _event(row: Any, number: int, kind: int = 0) -> events_pb2.Event:
    event = events_pb2.Event(
        event_id=f"trivago-{number}",
        user_id=row.user_id,
        session_id=row.session_id,
        event_time_us=row.timestamp * 1_000_000,
        context=_context(row),
        source="trivago",
    )
    reference = str(row.reference)
    item = reference if reference.isdigit() else ""
    if kind:
        event.kind, event.item_id = kind, item  # type: ignore[assignment]
    elif item and (row.action_type in _VIEWS or row.action_type == "search for item"):
        event.kind, event.item_id = Kind.EVENT_KIND_VIEW, item
    else:
        event.kind, event.query = Kind.EVENT_KIND_SEARCH, f"{row.action_type}: {reference}"[:200]
    return event


def _context(row: Any) -> events_pb2.Context:
    return events_pb2.Context(region=row.platform, device=row.device, platform="web")
