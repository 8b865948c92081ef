"""Impressions on their way to the log: built after the answer is out, sent without anybody waiting."""

import asyncio
from collections.abc import Callable

from freshrank.v1.events_pb2 import Inbound

from services.common.kafka import Ack
from services.gateway.impressions import AsServed, RecentAnswers, write
from services.gateway.meters import Meters

DELAY_S = 0.002
"""Long enough for the answer to leave first."""
MOST_WAITING = 5_000
"""More than this were not acknowledged: the log is down, and new ones are counted as lost."""


class Emitter:
    """Takes what was served; remembers it for Explain."""

    def __init__(
        self,
        send: Callable[[str, Inbound], "asyncio.Future[Ack]"],
        recent: RecentAnswers,
        meters: Meters,
    ) -> None:
        self._send, self._recent, self._meters = send, recent, meters
        self._later: dict[str, tuple[asyncio.TimerHandle, AsServed]] = {}
        self._waiting = 0

    def __call__(self, served: AsServed) -> None:
        """Queue an impression; never waits and never fails."""
        self._recent.put(served)
        if self._waiting + len(self._later) >= MOST_WAITING:
            self._meters.impressions.labels("lost").inc()
            return
        handle = asyncio.get_running_loop().call_later(DELAY_S, self._go, served.impression_id)
        self._later[served.impression_id] = (handle, served)

    def flush(self) -> None:
        """Send at once what is queued: before the producer closes."""
        for handle, served in list(self._later.values()):
            handle.cancel()
            self._go(served.impression_id)

    def _go(self, impression_id: str) -> None:
        _, served = self._later.pop(impression_id)
        inbound = Inbound(received_us=served.time_us)
        write(served, inbound.impression)
        self._waiting += 1
        self._send(served.user, inbound).add_done_callback(self._sent)

    def _sent(self, future: "asyncio.Future[Ack]") -> None:
        self._waiting -= 1
        lost = future.cancelled() or future.exception() is not None
        self._meters.impressions.labels("lost" if lost else "sent").inc()
