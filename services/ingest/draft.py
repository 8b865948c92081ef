"""A row of interactions while it is being cleaned: one attribute per column, None where nothing was sent."""

from operator import attrgetter

from freshrank.v1.events_pb2 import Event, Impression

from services.common.records import FORGET, IMPRESSION, INTERACTIONS, TICK
from services.text.normal import query_key

COLUMNS: tuple[str, ...] = tuple(INTERACTIONS.names)
"""The order of a row's values."""


class Draft:
    """One row; the attributes are the columns of `records.INTERACTIONS`, see there for their meaning."""

    __slots__ = COLUMNS

    def __init__(self, offset: int, index: int, kind: int, time_us: int, received_us: int, user: str | None) -> None:
        self.src_offset = offset
        self.src_index = index
        self.kind = kind
        self.time_us = time_us
        self.received_us = received_us
        self.user = user
        self.session: str | None = None
        self.item: str | None = None
        self.category: str | None = None
        self.event_id: str | None = None
        self.value: float | None = None
        self.quantity: float | None = None
        self.price: float | None = None
        self.rating: float | None = None
        self.play_seconds: float | None = None
        self.play_share: float | None = None
        self.query: str | None = None
        self.region: str | None = None
        self.device: str | None = None
        self.platform: str | None = None
        self.token: str | None = None
        self.verdict = 0
        self.clip_version = 0
        self.impression_items: list[str] | None = None
        self.impression_categories: list[str] | None = None
        self.impression: bytes | None = None


row_of = attrgetter(*COLUMNS)
"""The values of a draft in the order of the columns."""


def of_event(event: Event, offset: int, index: int, received_us: int) -> Draft:
    """Copy an event; what the sender left out is None, never zero or an empty text."""
    draft = Draft(offset, index, event.kind, event.event_time_us, received_us, event.user_id or None)
    draft.session = event.session_id or None
    draft.item = event.item_id or None
    draft.event_id = event.event_id or None
    draft.query = event.query or None
    draft.token = event.attribution_token or None
    has = event.HasField
    draft.value = event.value if has("value") else None
    draft.quantity = event.quantity if has("quantity") else None
    draft.rating = event.rating if has("rating") else None
    draft.play_seconds = event.play_seconds if has("play_seconds") else None
    draft.play_share = event.play_share if has("play_share") else None
    if has("context"):
        context = event.context
        draft.region = context.region or None
        draft.device = context.device or None
        draft.platform = context.platform or None
    return draft


def of_impression(shown: Impression, offset: int, index: int, received_us: int) -> Draft:
    """Copy what an impression's row says outside the serialized message."""
    draft = Draft(offset, index, IMPRESSION, shown.time_us, received_us, shown.user_id or None)
    draft.session = shown.session_id or None
    draft.event_id = shown.impression_id or None
    draft.query = query_key(shown.query)
    draft.region = shown.context.region or None
    draft.device = shown.context.device or None
    draft.platform = shown.context.platform or None
    draft.impression_items = [item.item_id for item in shown.items if item.shown]
    draft.impression_categories = [item.category for item in shown.items if item.shown]
    draft.impression = shown.SerializeToString()
    return draft


def of_forget(user: str, offset: int, index: int, time_us: int, received_us: int) -> Draft:
    """The row that makes every fold drop what it holds of a user older than `time_us`."""
    return Draft(offset, index, FORGET, time_us, received_us, user)


def of_tick(offset: int, time_us: int) -> Draft:
    """The row that only moves the log clock; `offset` -1 when it is no record of `events.in`."""
    return Draft(offset, 0, TICK, time_us, time_us, None)
