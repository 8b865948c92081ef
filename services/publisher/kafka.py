"""The publisher's ends of the topics: routes and item rows out, acknowledged; examples and commands in."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout

from freshrank.v1.models_pb2 import ArmSplit, Route, TextRoute

from services.common.arms import SPLIT_KEY, TEXT_KEY
from services.common.broker import Address
from services.common.errors import Conflict, DeadlineExceeded
from services.common.kafka import Outbox, Record, Tail
from services.common.topics import ITEM_UPDATES, ROUTES
from services.publisher.book import Lane
from services.publisher.compression.rows import messages
from services.publisher.routes import key_of
from services.publisher.table import Rows

_CHUNK = 5_000
"""Records on their way at once: half of what the client's queue holds by default."""

Outgoing = tuple[str, bytes, bytes | None]


class Sender:
    """An `Outbox` for threads: a call returns when everything is acknowledged."""

    def __init__(
        self,
        outbox: Outbox,
        loop: asyncio.AbstractEventLoop,
        fence: Callable[[], None] = lambda: None,
        timeout_s: float = 60.0,
    ) -> None:
        """`fence` raises NotOwner when nothing may be sent any more."""
        self._outbox, self._loop, self._fence, self._timeout_s = outbox, loop, fence, timeout_s

    def send(self, records: Sequence[Outgoing]) -> None:
        """Send topic, key and value of each. Raises TemporaryError when not all were acknowledged: send all again."""
        for start in range(0, len(records), _CHUNK):
            self._fence()
            done = asyncio.run_coroutine_threadsafe(self._send(records[start : start + _CHUNK]), self._loop)
            try:
                done.result(self._timeout_s)
            except FutureTimeout as error:
                done.cancel()
                raise DeadlineExceeded(f"{len(records)} records not acknowledged") from error

    def route(self, route: Route) -> None:
        """Send an arm's record of routes."""
        self.send([(ROUTES.name, key_of(route.arm), route.SerializeToString(deterministic=True))])

    def split(self, split: ArmSplit) -> None:
        """Send the record that says which arm answers whom."""
        self.send([(ROUTES.name, SPLIT_KEY, split.SerializeToString(deterministic=True))])

    def text_route(self, route: TextRoute, key: bytes = TEXT_KEY) -> None:
        """Send the record that says which text encoder, or by another key which reranker, searches use."""
        self.send([(ROUTES.name, key, route.SerializeToString(deterministic=True))])

    def item_rows(self, lane: Lane, rows: Rows, codec: str = "float32") -> None:
        """Send rows of items to those who keep tables; a row of zeros deletes."""
        self.send([(ITEM_UPDATES.name, _key(lane, row_id), value) for row_id, value in _values(lane, rows, codec)])

    async def _send(self, records: Sequence[Outgoing]) -> None:
        await asyncio.gather(*(self._outbox.send(topic, value, key=key) for topic, key, value in records))


class Reader:
    """Follows a topic from given positions, one record at a time into `apply`; for one thread."""

    def __init__(
        self,
        bootstrap: Address,
        topic: str,
        positions: Mapping[int, int],
        apply: Callable[[Record], None],
        back: int | None = None,
    ) -> None:
        """`back`: begin so many messages before the end of each partition, whatever the positions say."""
        self._tail = Tail(bootstrap, topic, positions)
        if back is not None:
            ends, start = self._tail.ends(), self._tail.positions
            self._tail.close()
            self._tail = Tail(bootstrap, topic, {p: max(start[p], ends[p] - back) for p in start})
        self._topic, self._apply = topic, apply
        self._waiting: deque[Record] = deque()
        self._first_ends = self._tail.ends()

    @property
    def positions(self) -> dict[int, int]:
        """Next offset of each partition."""
        return dict(self._tail.positions)

    @property
    def caught_up(self) -> bool:
        """Whether everything has been taken that was there when it began."""
        return not self._waiting and all(self.positions[p] >= end for p, end in self._first_ends.items())

    def step(self) -> int:
        """Take what has come; returns the number of records. Raises TemporaryError on broker faults."""
        self._waiting += self._tail.poll(500, 0.2)
        taken = 0
        while self._waiting:
            self._apply(self._waiting[0])
            self._waiting.popleft()  # only now: one that fails is taken again
            taken += 1
        return taken

    def close(self) -> None:
        """Leave the broker."""
        self._tail.close()


class Standing:
    """What lies on the topic routes under one key: the last record that any leader has put there. For one thread."""

    def __init__(self, bootstrap: Address, key: bytes, read: Callable[[bytes], Route | ArmSplit | TextRoute]) -> None:
        """Reads the topic whole. Raises TemporaryError when the broker is not there."""
        self._tail, self._key, self._read = Tail(bootstrap, ROUTES.name), key, read
        self.last: Route | ArmSplit | TextRoute | None = None
        self.term = 0
        """The largest that was seen."""
        for record in self._tail.until(self._tail.ends()):
            self._take(record)

    def overtaken(self, term: int) -> bool:
        """Look for new records: True when the last one is of an earlier term and lies over ours.

        Raises Conflict when there is one of a later term.
        """
        for record in self._tail.poll(100, 0.0):
            self._take(record)
        if self.term > term:
            raise Conflict(f"a publisher of term {self.term} leads, this one is of term {term}")
        return self.term == term and self.last is not None and self.last.term < term

    def close(self) -> None:
        """Leave the broker."""
        self._tail.close()

    def _take(self, record: Record) -> None:
        _, _, _, key, value = record
        if key == self._key and value:
            self.last = self._read(value)
            self.term = max(self.term, self.last.term)


def _key(lane: Lane, item: str) -> bytes:
    return f"r|{lane.slot}|{item}".encode()


def _values(lane: Lane, rows: Rows, codec: str) -> list[tuple[str, bytes | None]]:
    present = rows.present
    out: list[tuple[str, bytes | None]] = []
    for at, (row_id, message) in enumerate(zip(rows.ids, messages(rows.rows, codec), strict=True)):
        message.epoch, message.seq, message.learned_up_to_us = lane.epoch, int(rows.seqs[at]), int(rows.times_us[at])
        out.append((row_id, message.SerializeToString() if present[at] else None))
    return out
