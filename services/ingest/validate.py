"""What a record must be before it may enter the loop: every field has a rule, every refusal names the field.

Checks look at drafts, where absence is None. They raise InvalidInput with a machine-readable reason:
missing_field, out_of_range, unknown_kind, too_large or malformed.
"""

from dataclasses import dataclass

from freshrank.v1.events_pb2 import EventKind, Impression

from services.common.errors import InvalidInput
from services.ingest.draft import Draft

YEAR_2000_US = 946_684_800_000_000
YEAR_2100_US = 4_102_444_800_000_000
"""Times outside these years are broken clocks, not events."""

_NO_KIND, _SEARCH = EventKind.EVENT_KIND_UNSPECIFIED, EventKind.EVENT_KIND_SEARCH
_RATE, _PLAY = EventKind.EVENT_KIND_RATE, EventKind.EVENT_KIND_PLAY
KINDS = frozenset(EventKind.values()) - {_NO_KIND}


@dataclass(frozen=True)
class Limits:
    """How large and how far off a record may be."""

    id_chars: int = 128
    text_chars: int = 512
    """Length of a search query."""
    context_chars: int = 64
    token_chars: int = 512
    ahead_us: int = 600_000_000
    """An event may claim to have happened so long after it was received: shoppers' clocks differ."""
    record_bytes: int = 1_048_576
    batch_events: int = 10_000
    items: int = 1_000
    """Items of one impression, sampled ones included."""
    item_features: int = 1_000
    value: float = 1e9
    quantity: float = 1e6
    rating: float = 10.0
    play_seconds: float = 604_800.0


def check_event(draft: Draft, limits: Limits) -> None:
    """Refuse an event that no fold could use."""
    _ids(draft, limits)
    _kind(draft)
    _numbers(draft, limits)
    _texts(draft, limits)
    if draft.time_us != 0:
        check_time("event_time_us", draft.time_us, draft.received_us, limits)


def check_impression(shown: Impression, draft: Draft, limits: Limits) -> None:
    """Refuse an impression that could not be joined or learned from."""
    check_id("impression_id", draft.event_id, 32)
    if len(shown.impression_id) != 32 or not _is_hex(shown.impression_id):
        raise InvalidInput("impression_id", "malformed", "must be 32 lower-case hex digits")
    check_id("user_id", draft.user, limits.id_chars)
    _optional_id("session_id", draft.session, limits.id_chars)
    _context(draft, limits)
    check_time("time_us", draft.time_us, draft.received_us, limits)
    if len(shown.user_features) != len(shown.user_feature_ids):
        raise InvalidInput("user_features", "malformed", "must be as many as user_feature_ids")
    _items(shown, limits)


def check_id(field: str, value: str | None, chars: int) -> None:
    """Refuse an id that is absent, long, or holds what cannot be printed.

    >>> check_id("user_id", "user-1", 128)
    """
    if value is None:
        raise InvalidInput(field, "missing_field", "must be given")
    if len(value) > chars:
        raise InvalidInput(field, "too_large", f"must have at most {chars} characters")
    if not value.isprintable() or value[0] == " " or value[-1] == " ":
        raise InvalidInput(field, "malformed", "must be printable, without spaces at its ends")


def check_time(field: str, time_us: int, received_us: int, limits: Limits) -> None:
    """Refuse a time before 2000, after 2099, or further ahead of its arrival than clocks differ."""
    if not YEAR_2000_US <= time_us < YEAR_2100_US:
        raise InvalidInput(field, "out_of_range", "must be microseconds since 1970 and lie in 2000 to 2099")
    if time_us > received_us + limits.ahead_us:
        raise InvalidInput(field, "out_of_range", f"must not be {limits.ahead_us // 1_000_000} s after its arrival")


def _ids(draft: Draft, limits: Limits) -> None:
    check_id("event_id", draft.event_id, limits.id_chars)
    check_id("user_id", draft.user, limits.id_chars)
    if draft.session is not None:
        check_id("session_id", draft.session, limits.id_chars)
    if draft.item is not None:
        check_id("item_id", draft.item, limits.id_chars)


def _optional_id(field: str, value: str | None, chars: int) -> None:
    if value is not None:
        check_id(field, value, chars)


def _kind(draft: Draft) -> None:
    kind = draft.kind
    if kind not in KINDS:
        if kind == _NO_KIND:
            raise InvalidInput("kind", "missing_field", "must be given")
        raise InvalidInput("kind", "unknown_kind", f"{kind} is no kind of event")
    if kind == _SEARCH:
        if draft.query is None and draft.item is None:
            raise InvalidInput("query", "missing_field", "a search needs a query or an item")
    elif draft.item is None:
        raise InvalidInput("item_id", "missing_field", "only a search goes without an item")
    if kind == _RATE and draft.rating is None:
        raise InvalidInput("rating", "missing_field", "a rating needs its value")
    if kind == _PLAY and draft.play_seconds is None and draft.play_share is None:
        raise InvalidInput("play_seconds", "missing_field", "a play needs its seconds or its share")


def _numbers(draft: Draft, limits: Limits) -> None:
    # NaN fails every comparison, so it is refused with the infinite ones.
    if draft.value is not None and not 0 <= draft.value <= limits.value:
        raise _range("value", limits.value)
    if draft.quantity is not None and not 0 < draft.quantity <= limits.quantity:
        raise _range("quantity", limits.quantity)
    if draft.rating is not None and not 0 <= draft.rating <= limits.rating:
        raise _range("rating", limits.rating)
    if draft.play_seconds is not None and not 0 <= draft.play_seconds <= limits.play_seconds:
        raise _range("play_seconds", limits.play_seconds)
    if draft.play_share is not None and not 0 <= draft.play_share <= 1:
        raise _range("play_share", 1)


def _range(field: str, most: float) -> InvalidInput:
    return InvalidInput(field, "out_of_range", f"must be a number from 0 to {most:g}")


def _texts(draft: Draft, limits: Limits) -> None:
    if draft.query is not None and len(draft.query) > limits.text_chars:
        raise InvalidInput("query", "too_large", f"must have at most {limits.text_chars} characters")
    if draft.token is not None and len(draft.token) > limits.token_chars:
        raise InvalidInput("attribution_token", "too_large", f"must have at most {limits.token_chars} characters")
    _context(draft, limits)


def _context(draft: Draft, limits: Limits) -> None:
    for name in ("region", "device", "platform"):
        text = getattr(draft, name)
        if text is not None and len(text) > limits.context_chars:
            raise InvalidInput(f"context.{name}", "too_large", f"must have at most {limits.context_chars} characters")


def _items(shown: Impression, limits: Limits) -> None:
    if not shown.items:
        raise InvalidInput("items", "missing_field", "an impression shows at least one item")
    if len(shown.items) > limits.items:
        raise InvalidInput("items", "too_large", f"must be at most {limits.items}")
    width = len(shown.item_feature_ids)
    if width > limits.item_features:
        raise InvalidInput("item_feature_ids", "too_large", f"must be at most {limits.item_features}")
    for place, item in enumerate(shown.items):
        check_id(f"items[{place}].item_id", item.item_id or None, limits.id_chars)
        if len(item.features) not in (0, width):
            raise InvalidInput(f"items[{place}].features", "malformed", "must be as many as item_feature_ids")
        if not 0 <= item.propensity <= 1:
            raise InvalidInput(f"items[{place}].propensity", "out_of_range", "must be a probability")
    if not any(item.shown for item in shown.items):
        raise InvalidInput("items", "missing_field", "an impression shows at least one item")


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)
