"""Gateway and ingest agree: an event that the gateway acknowledges is none that ingest refuses."""

from freshrank.v1.events_pb2 import Event, EventKind
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InvalidInput
from services.gateway import track
from services.ingest import draft, validate

NOW = 1_760_000_000_000_000
texts = st.one_of(
    st.text(max_size=6), st.integers(60, 70).map("x".__mul__), st.integers(126, 131).map("x".__mul__),
    st.integers(510, 515).map("x".__mul__), st.sampled_from(["", " a", "a ", "a b", "\u00a0", "\u3000a", "\x00"]),
)  # fmt: skip
numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, 10.0, 1e6, 1e9, -1.0, 1e-30])
times = st.sampled_from([0, 1, NOW, NOW + 299_000_000, NOW + 601_000_000, 946_684_800_000_000, 4_102_444_800_000_000])


CHANGES = {
    **dict.fromkeys(("event_id", "user_id", "item_id", "session_id", "query", "attribution_token"), texts),
    **dict.fromkeys(("region", "device", "platform"), texts),
    **dict.fromkeys(("value", "quantity", "rating", "play_seconds", "play_share"), numbers),
    "kind": st.integers(0, 11),
    "event_time_us": times,
}


@st.composite
def events(draw: st.DrawFn) -> Event:
    """A good event with up to three fields changed."""
    made = Event(event_id="e", user_id="u", item_id="i", kind=EventKind.EVENT_KIND_CLICK, event_time_us=NOW)
    for name in draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=3, unique=True)):
        value = draw(CHANGES[name])
        setattr(made.context if name in ("region", "device", "platform") else made, name, value)
    return made


@settings(max_examples=2_000)
@given(events())
def test_what_the_gateway_takes_ingest_takes(event: Event) -> None:
    try:
        track.check(event, NOW)
    except InvalidInput:
        return
    validate.check_event(draft.of_event(event, 0, 0, NOW), validate.Limits())
