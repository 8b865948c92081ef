"""CIKM Cup 2016 (Diginetica): a shop's sessions by week, without a clock: clicks are spread over their week."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from freshrank.v1 import events_pb2, ranking_pb2

from services.demo.loaders.steps import Ask, Stock, Tell

START_US = 1_451_865_600_000_000
"""2016-01-04, the first week of the log."""
WEEK_US = 7 * 86_400 * 1_000_000
ASK_EVERY = 10
"""Every tenth click asks for recommendations first."""


def steps(folder: Path) -> Iterator[Ask | Tell | Stock]:
    """Clicks week by week."""
    known: set[str] = set()
    number = 0
    for week in range(17):
        with gzip.open(folder / f"period_{week}.txt.gz", "rt") as file:
            clicks = [line.split() for line in file]
        fresh = sorted({item for _, item in clicks} - known)
        known |= set(fresh)
        for start in range(0, len(fresh), 500):
            yield Stock([ranking_pb2.Item(item_id=item) for item in fresh[start : start + 500]])
        for place, (session, item) in enumerate(clicks):
            time_us = START_US + week * WEEK_US + place * WEEK_US // len(clicks)
            yield _step(number, week, session, item, time_us)
            number += 1


def _step(number: int, week: int, session: str, item: str, time_us: int) -> Ask | Tell:
    user = f"d{week}-{session}"
    event = events_pb2.Event(
        event_id=f"diginetica-{number}",
        kind=events_pb2.EVENT_KIND_CLICK,
        user_id=user,
        session_id=user,
        item_id=item,
        event_time_us=time_us,
        source="diginetica",
    )
    if number % ASK_EVERY == 0:
        return Ask(time_us, ranking_pb2.Shopper(user_id=user, session_id=user), events=[event], wanted=item)
    return Tell(time_us, [event])
