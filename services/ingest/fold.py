"""The fold of one partition of events.in: bytes in, rows of interactions out.

Pure: what comes out depends on the records and the state alone (the catalogue only stamps category and price;
readers of a doubled row keep the first). So a restart at any offset gives the same rows and verdicts.
"""

from collections.abc import Callable, Sequence

from freshrank.v1.events_pb2 import Event, Forwarded, Inbound
from google.protobuf.message import DecodeError

from services.common.errors import InvalidInput
from services.common.letters import dead_letter
from services.common.records import Message
from services.common.stage import Snapshot
from services.common.topics import EVENTS
from services.ingest import draft as drafts
from services.ingest.catalogue import Lookup
from services.ingest.clean import Cleaner, Rules
from services.ingest.outputs import Outputs, Rows, encode_rows
from services.ingest.route import Router
from services.ingest.validate import YEAR_2000_US, YEAR_2100_US, check_id, check_impression, check_time

MOST_HOPS = 3
"""Times that a record is sent on again: once for each reshard that it has waited through."""


class _Foreign(Exception):
    """Raised for a record that belongs on another partition."""

    def __init__(self, user: str) -> None:
        super().__init__("belongs on another partition")
        self.user = user


class IngestFold:
    """State of one partition.

    `log_time`: in a replay the time of a record without an arrival is its own, never the broker's.
    """

    def __init__(
        self,
        partition: int,
        partitions: int,
        rules: Rules,
        catalogue: Lookup,
        log_time: bool = False,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.next_offset = 0
        self._partition = partition
        self._limits = rules.limits
        self._log_time = log_time
        self._cleaner = Cleaner(rules, catalogue)
        self._router = Router(partition, partitions)
        self._rows: Rows = []
        self._out = Outputs()
        self._handlers: dict[str, Callable[[Inbound, Message, int], None]] = {
            "event": self._single,
            "batch": self._batch,
            "impression": self._impression,
            "forget": self._forget,
            "tick": self._tick,
            "forwarded": self._forwarded,
        }
        if snapshot is not None:
            self.next_offset = snapshot.next_offset
            self._cleaner.restore(snapshot)
            self._router.restore(snapshot.meta["taken"])

    @property
    def clock_us(self) -> int:
        """The log clock."""
        return self._cleaner.clock_us

    def apply(self, messages: Sequence[Message]) -> Outputs:
        """Take records in log order; ones below `next_offset` were taken before and are passed over."""
        self._rows, self._out = [], Outputs()
        self._cleaner.counts = self._out.steps
        version = self._cleaner.clip_version
        for message in messages:
            if message.offset >= self.next_offset:
                self._message(message)
                self.next_offset = message.offset + 1
        out = self._out
        out.messages, out.missing = encode_rows(self._rows)
        out.clip_version = self._cleaner.clip_version
        if out.clip_version != version:
            out.clip_bounds = self._cleaner.clip_bounds
        return out

    def snapshot(self) -> Snapshot:
        """Copy the state."""
        state = self._cleaner.snapshot()
        return Snapshot(self.next_offset, state.arrays, {**state.meta, "taken": self._router.to_json()})

    def _message(self, message: Message) -> None:
        try:
            inbound = _parse(message.value, self._limits.record_bytes)
            kind = inbound.WhichOneof("record")
            if kind is None:
                raise InvalidInput("record", "missing_field", "must hold one of the kinds of record")
            self._handlers[kind](inbound, message, self._arrival(inbound, message))
        except InvalidInput as error:
            self._refuse(error, message.value or b"", message.offset, 0)
        except _Foreign as foreign:
            self._send_on(inbound, foreign.user, message, 0)

    def _arrival(self, inbound: Inbound, message: Message) -> int:
        """When the record was received; 0 when only its own time can say."""
        broker_us = 0 if self._log_time else message.timestamp_ms * 1000
        received_us = inbound.received_us or max(broker_us, 0)
        if not received_us:
            return 0
        if not YEAR_2000_US <= received_us < YEAR_2100_US:
            raise InvalidInput("received_us", "out_of_range", "must lie in the years 2000 to 2099")
        if broker_us > 0 and received_us > broker_us + self._limits.ahead_us:
            raise InvalidInput("received_us", "out_of_range", "is later than the broker's time")
        if not self._log_time:
            self._cleaner.advance(received_us)
        return received_us

    def _single(self, inbound: Inbound, message: Message, received_us: int) -> None:
        self._event(inbound.event, message.offset, 0, received_us)

    def _batch(self, inbound: Inbound, message: Message, received_us: int) -> None:
        events = inbound.batch.events
        if not events:
            raise InvalidInput("batch.events", "missing_field", "a batch holds at least one event")
        if len(events) > self._limits.batch_events:
            raise InvalidInput("batch.events", "too_large", f"must be at most {self._limits.batch_events}")
        for index, event in enumerate(events):
            try:
                self._event(event, message.offset, index, received_us)
            except InvalidInput as error:
                self._refuse(error, Inbound(event=event).SerializeToString(), message.offset, index)
            except _Foreign as foreign:
                alone = Inbound(event=event, received_us=received_us)
                self._send_on(alone, foreign.user, message, index)

    def _event(self, event: Event, offset: int, index: int, received_us: int) -> None:
        self._home(event.user_id)
        draft = drafts.of_event(event, offset, index, received_us or event.event_time_us or self.clock_us)
        if not draft.received_us:
            raise InvalidInput("event_time_us", "missing_field", "nothing says when it happened")
        if self._cleaner.clean(draft, self._cleaner.event_steps):
            self._rows.append(drafts.row_of(draft))
            self._out.received_us.append(draft.received_us)
            self._out.outcomes["event"] += 1
        else:
            self._out.outcomes["duplicate"] += 1

    def _impression(self, inbound: Inbound, message: Message, received_us: int) -> None:
        shown = inbound.impression
        self._home(shown.user_id)
        draft = drafts.of_impression(shown, message.offset, 0, received_us or shown.time_us)
        check_impression(shown, draft, self._limits)
        if self._cleaner.clean(draft, self._cleaner.impression_steps):
            self._rows.append(drafts.row_of(draft))
            self._out.received_us.append(draft.received_us)
            self._out.outcomes["impression"] += 1
        else:
            self._out.outcomes["duplicate"] += 1

    def _forget(self, inbound: Inbound, message: Message, received_us: int) -> None:
        forget = inbound.forget
        check_id("user_id", forget.user_id or None, self._limits.id_chars)
        self._home(forget.user_id)
        received_us = received_us or forget.before_us or self.clock_us
        before_us = forget.before_us or received_us
        check_time("before_us", before_us, received_us, self._limits)
        before_us = min(before_us, received_us)
        self._cleaner.forget(forget.user_id)
        self._cleaner.advance(before_us)
        row = drafts.of_forget(forget.user_id, message.offset, 0, before_us, received_us)
        self._rows.append(drafts.row_of(row))
        self._out.outcomes["forget"] += 1

    def _tick(self, inbound: Inbound, message: Message, received_us: int) -> None:
        time_us = inbound.tick.time_us
        check_time("time_us", time_us, received_us or time_us, self._limits)
        self._cleaner.advance(time_us)
        self._rows.append(drafts.row_of(drafts.of_tick(message.offset, time_us)))
        self._out.outcomes["tick"] += 1

    def _forwarded(self, inbound: Inbound, message: Message, received_us: int) -> None:
        carried = inbound.forwarded
        kind = _check_carried(carried)
        if not self._router.take(carried):
            self._out.outcomes["redelivered"] += 1
            return
        arrived_us = self._arrival(carried.inbound, message) or received_us
        try:
            self._handlers[kind](carried.inbound, message, arrived_us)
        except _Foreign as foreign:
            # Its user has moved since; owners that disagree on the number would send it back and forth for ever.
            if carried.hops >= MOST_HOPS:
                why = "was sent on to a partition that is not its own"
                raise InvalidInput("user_id", "out_of_range", why) from foreign
            self._send_on(carried.inbound, foreign.user, message, 0, carried.hops + 1)

    def _home(self, user: str) -> None:
        if not self._router.is_home(user):
            check_id("user_id", user, self._limits.id_chars)
            raise _Foreign(user)

    def _send_on(self, inbound: Inbound, user: str, message: Message, index: int, hops: int = 0) -> None:
        if not inbound.received_us:
            inbound.received_us = self._arrival(inbound, message)
        self._out.forwards.append(self._router.forward(inbound, user, message.offset, index, hops))
        self._out.outcomes["forwarded"] += 1

    def _refuse(self, error: InvalidInput, payload: bytes, offset: int, index: int) -> None:
        letter = dead_letter("ingest", EVENTS.name, error, payload, self._partition, offset, index, self.clock_us)
        self._out.dead_letters.append(letter)
        self._out.reasons[error.reason] += 1
        self._out.outcomes["dead"] += 1


def _parse(value: bytes | None, most: int) -> Inbound:
    if value is None:
        raise InvalidInput("record", "malformed", "has no value")
    if len(value) > most:
        raise InvalidInput("record", "too_large", f"must have at most {most} bytes")
    try:
        inbound: Inbound = Inbound.FromString(value)
    except DecodeError as error:
        raise InvalidInput("record", "malformed", "is no freshrank.v1.Inbound") from error
    return inbound


def _check_carried(carried: Forwarded) -> str:
    kind: str | None = carried.inbound.WhichOneof("record")
    if kind not in ("event", "impression", "forget"):
        raise InvalidInput("forwarded.inbound", "malformed", "must carry an event, an impression or a forget")
    if carried.partition < 0 or carried.offset < 0 or carried.index < 0:
        raise InvalidInput("forwarded.offset", "out_of_range", "must name the place of a record")
    return kind
