"""Impressions on their way to the log: built after the answer is out, sent without anybody waiting."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context

from freshrank.v1.events_pb2 import Inbound

from services.common.kafka import Ack
from services.gateway.impressions import AsServed, RecentAnswers, write
from services.gateway.meters import Meters

MOST_WAITING = 5_000
"""More than this were not acknowledged: the log is down, and new ones are counted as lost."""


class Emitter:
    """Takes what was served; remembers it for Explain.

    Impressions leave together: one request to the broker costs it as much as the records in it.
    """

    def __init__(
        self,
        send: Callable[[str, bytes], "asyncio.Future[Ack]"],
        recent: RecentAnswers,
        meters: Meters,
        gather_s: float = 0.02,
    ) -> None:
        """`send`: takes the user and a serialized Inbound."""
        self._send, self._recent, self._meters, self._gather_s = send, recent, meters, gather_s
        # With the context of its call: the trace that goes on is its own, not that of whoever sends.
        self._served: deque[tuple[Context, AsServed]] = deque()
        self._built: list[tuple[Context, str, bytes]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending = 0

    def __call__(self, served: AsServed) -> None:
        """Queue an impression; never waits and never fails."""
        self._recent.put(served)
        if self.waiting >= MOST_WAITING:
            self._meters.impressions.labels("lost").inc()
            return
        self._served.append((copy_context(), served))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s, self.flush)

    @property
    def waiting(self) -> int:
        """Impressions that the log has not acknowledged."""
        return len(self._served) + len(self._built) + self._sending

    def build(self) -> None:
        """Write the oldest queued impression, if there is one: for moments in which a call waits for others."""
        if self._served:
            context, served = self._served.popleft()
            inbound = Inbound(received_us=served.time_us)
            write(served, inbound.impression)
            self._built.append((context, served.user, inbound.SerializeToString()))

    def flush(self) -> None:
        """Send what is queued."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._served:
            self.build()
        built, self._built = self._built, []
        for context, user, inbound in built:
            self._sending += 1
            context.run(self._send, user, inbound).add_done_callback(self._sent)

    def _sent(self, future: "asyncio.Future[Ack]") -> None:
        self._sending -= 1
        lost = future.cancelled() or future.exception() is not None
        self._meters.impressions.labels("lost" if lost else "sent").inc()
