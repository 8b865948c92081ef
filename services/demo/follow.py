"""Waits until every stage has applied what came before: the lockstep of replays, and the end of a demo.

A stage has applied its input when its position is the end of the log as it was after the stage before it had
caught up; the stages are asked in the order of the data.
"""

import asyncio
import http.client
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

from services.common.broker import Address
from services.common.errors import TemporaryError
from services.common.kafka import Probe
from services.common.topics import EVENTS, EXAMPLES, INTERACTIONS, ITEM_INTERACTIONS, ITEM_UPDATES

ORDER = (
    (EVENTS.name, ("ingest",)),
    (INTERACTIONS.name, ("features", "joiner")),
    (ITEM_INTERACTIONS.name, ("features",)),
    (EXAMPLES.name, ("trainer", "publisher")),
    (ITEM_UPDATES.name, ("gateway",)),
)


class Follower:
    """Reads the ends of the log and the positions of the services."""

    def __init__(self, bootstrap: Address, partitions: int, urls: Mapping[str, str]) -> None:
        self._numbers: dict[str, list[int]] = {}
        self._urls = dict(urls)
        self._free: dict[str, deque[http.client.HTTPConnection]] = {name: deque() for name in urls}
        self._askers = ThreadPoolExecutor(min(8, partitions))
        self._probe = Probe(bootstrap)

    def ends(self, topic: str) -> dict[str, int]:
        """Next offset of each partition of a topic, by position name."""
        if topic not in self._numbers:  # not all have as many: `item_updates` keeps what it was made with
            self._numbers[topic] = self._probe.partitions(topic)
        ends = self._askers.map(lambda p: self._end(topic, p), self._numbers[topic])
        return {f"{topic}-{p}": end for p, end in enumerate(ends)}

    def _end(self, topic: str, partition: int) -> int:
        return self._probe.bounds(topic, partition)[1]

    def positions(self, service: str, ends: Mapping[str, int] | None = None) -> dict[str, Any]:
        """What a service says of itself at /positions, within a second when it has applied all below `ends`; empty
        when it does not answer."""
        path = f"/positions?{urlencode(ends or {})}"
        for _ in range(2):
            connection = self._connection(service)
            try:
                connection.request("GET", path)
                answer: dict[str, Any] = json.load(connection.getresponse())
                self._free[service].append(connection)
                return answer
            except (OSError, ValueError, http.client.HTTPException):
                connection.close()
                self._drop(service)  # those that were kept as long may be closed, too
        return {}

    def _connection(self, service: str) -> http.client.HTTPConnection:
        """One that was kept open, or a new one: lockstep asks some hundred times a second, from several threads."""
        try:
            return self._free[service].pop()
        except IndexError:
            return http.client.HTTPConnection(urlsplit(self._urls[service]).netloc, timeout=2)

    def _drop(self, service: str) -> None:
        with suppress(IndexError):
            while True:
                self._free[service].pop().close()

    def lags(self) -> dict[str, int]:
        """Records not yet applied, by service and topic."""
        out: dict[str, int] = {}
        for topic, services in ORDER:
            ends = self.ends(topic)
            for service in services:
                applied = self.positions(service).get("applied", {})
                out[f"{service} {topic}"] = sum(max(0, end - applied.get(name, 0)) for name, end in ends.items())
        return out

    async def caught_up(self, timeout_s: float = 60.0, poll_s: float = 0.004, rows: bool = True) -> None:
        """Return when all stages have applied everything written before the call. Raises TemporaryError in time."""
        until = time.monotonic() + timeout_s
        await self.impressions_sent(timeout_s, poll_s)
        for topic, services in ORDER:
            ends = self.ends(topic)
            for service in services:
                await self._wait(lambda s=service, e=ends: self._reached(s, e), until, poll_s, f"{service} on {topic}")  # type: ignore[misc]
        if rows:
            await self._wait(self._rows_pushed, until, poll_s, "rows")

    async def impressions_sent(self, timeout_s: float = 60.0, poll_s: float = 0.004) -> None:
        """Return when all impressions of answers given so far lie on the log. Raises TemporaryError in time."""
        await self._wait(self._none_waiting, time.monotonic() + timeout_s, poll_s, "impressions")

    async def drained(self, timeout_s: float = 120.0) -> None:
        """The same, however long it takes: raises TemporaryError only when a whole timeout brings nothing nearer."""
        left = sum((await asyncio.to_thread(self.lags)).values())
        while True:
            try:
                return await self.caught_up(timeout_s)
            except TemporaryError:
                before, left = left, sum((await asyncio.to_thread(self.lags)).values())
                if left >= before:
                    raise

    def close(self) -> None:
        """Leave the broker and the services."""
        self._askers.shutdown()
        for service in self._free:
            self._drop(service)
        self._probe.close()

    def _reached(self, service: str, ends: Mapping[str, int]) -> bool:
        applied = self.positions(service, ends).get("applied", {})
        return all(applied.get(name, 0) >= end for name, end in ends.items())

    def _none_waiting(self) -> bool:
        return bool(self.positions("gateway").get("impressions_waiting") == 0)

    def _rows_pushed(self) -> bool:
        trainer, publisher = self.positions("trainer"), self.positions("publisher")
        return bool(publisher.get("pushed_seq", -1) >= trainer.get("delta_seq", 0))

    async def _wait(self, reached: Callable[[], bool], until: float, poll_s: float, what: str) -> None:
        while not await asyncio.to_thread(reached):
            if time.monotonic() > until:
                raise TemporaryError(f"{what}: not applied in time")
            await asyncio.sleep(poll_s)
