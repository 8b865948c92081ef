"""Events as callers send them: checked one by one, grouped into as few records as the log's order allows.

Ingest validates and cleans for everybody; these checks only answer the caller at once, where a later dead letter
would reach nobody, and take nothing that ingest by default refuses. A record never mixes partitions, and an event's
place is that of its record.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from freshrank.v1.events_pb2 import Event, EventBatch, EventKind, Inbound

from services.common.errors import InvalidInput
from services.common.ids import partition_of

MOST_EVENTS = 1000
MOST_ID = 128
"""Characters of an id."""
MOST_TEXT = 512
"""Characters of a query, and of a token."""
MOST_CONTEXT = 64
"""Characters of region, device and platform."""
MOST_AHEAD_US = 300_000_000
"""A shopper's clock may be ahead by five minutes."""
FIRST_US = 946_684_800_000_000
"""2000-01-01: an earlier event time is seconds or milliseconds by mistake."""

_NEEDS_ITEM = frozenset(EventKind.values()) - {EventKind.EVENT_KIND_SEARCH}
_RANGES = {
    "value": (0.0, 1e9),
    "quantity": (0.0, 1e6),
    "rating": (0.0, 10.0),
    "play_seconds": (0.0, 7 * 24 * 3600.0),
    "play_share": (0.0, 1.0),
}
_IDS = ("event_id", "user_id", "session_id", "item_id", "source")
_TEXTS = ("query", "attribution_token")
_CONTEXT = ("region", "device", "platform")


@dataclass(frozen=True)
class Parcel:
    """Events that travel in one record, and their places in the call."""

    partition: int
    key: str
    indexes: tuple[int, ...]
    inbound: Inbound


def check(event: Event, now_us: int) -> None:
    """Raises InvalidInput that names the field, for an event that can never be used."""
    if not event.event_id:
        raise InvalidInput("event_id", "missing_field", "is required")
    if not event.user_id:
        raise InvalidInput("user_id", "missing_field", "is required")
    check_texts(event, _IDS, MOST_ID)
    check_texts(event, _TEXTS, MOST_TEXT)
    check_texts(event.context, _CONTEXT, MOST_CONTEXT)
    _check_kind(event)
    _check_numbers(event)
    _check_time(event.event_time_us, now_us)


def check_texts(message: object, fields: Sequence[str], most: int) -> None:
    """Raises InvalidInput for a text that is too long or holds control characters."""
    for name in fields:
        text: str = getattr(message, name)
        if len(text) > most:
            raise InvalidInput(name, "too_large", f"has {len(text)} characters, at most {most}")
        if text and not text.isprintable():
            raise InvalidInput(name, "malformed", "holds control characters")
        if name in _IDS and text != text.strip(" "):
            raise InvalidInput(name, "malformed", "has spaces at its ends")


def _check_kind(event: Event) -> None:
    kind = event.kind
    if kind == EventKind.EVENT_KIND_UNSPECIFIED:
        raise InvalidInput("kind", "missing_field", "is required")
    if kind not in EventKind.values():
        raise InvalidInput("kind", "unknown_kind", f"{kind} is not a kind of event")
    if kind in _NEEDS_ITEM and not event.item_id:
        raise InvalidInput("item_id", "missing_field", f"is required for {EventKind.Name(kind)}")
    if kind == EventKind.EVENT_KIND_SEARCH and not (event.query or event.item_id):
        raise InvalidInput("query", "missing_field", "a search needs a query or an item")
    if kind == EventKind.EVENT_KIND_RATE and not event.HasField("rating"):
        raise InvalidInput("rating", "missing_field", "is required for EVENT_KIND_RATE")
    if kind == EventKind.EVENT_KIND_PLAY and not (event.HasField("play_seconds") or event.HasField("play_share")):
        raise InvalidInput("play_seconds", "missing_field", "a play needs play_seconds or play_share")


def _check_numbers(event: Event) -> None:
    for name, (low, high) in _RANGES.items():
        if not event.HasField(name):
            continue
        value = getattr(event, name)
        if not math.isfinite(value) or not low <= value <= high or (name == "quantity" and value == 0):
            raise InvalidInput(name, "out_of_range", f"must lie between {low:g} and {high:g}")


def _check_time(time_us: int, now_us: int) -> None:
    if time_us and not FIRST_US <= time_us <= now_us + MOST_AHEAD_US:
        raise InvalidInput(
            "event_time_us", "out_of_range", "must be microseconds since 1970, after 2000 and not in the future"
        )


def sort(
    events: Sequence[Event], partitions: int, now_us: int, replay: bool
) -> tuple[list[Parcel], dict[int, InvalidInput]]:
    """Parcels of the good events and the fault of each other, by place.

    `replay`: the received time of an event is its event time, so a parcel holds one moment only.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    faults: dict[int, InvalidInput] = {}
    for place, event in enumerate(events):
        received_us = (event.event_time_us or now_us) if replay else now_us
        try:
            check(event, received_us)
        except InvalidInput as error:
            faults[place] = error
        else:
            groups.setdefault((partition_of(event.user_id, partitions), received_us), []).append(place)
    return [_parcel(events, *key, places) for key, places in groups.items()], faults


def _parcel(events: Sequence[Event], partition: int, received_us: int, places: list[int]) -> Parcel:
    chosen = [events[place] for place in places]
    if len(chosen) == 1:
        inbound = Inbound(event=chosen[0], received_us=received_us)
    else:
        inbound = Inbound(batch=EventBatch(events=chosen), received_us=received_us)
    return Parcel(partition, chosen[0].user_id, tuple(places), inbound)
