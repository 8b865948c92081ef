"""One pipelined connection to Redis for asyncio: many commands out, all their replies back, parsed by hiredis.

redis-py awaits each reply; for a hundred HMGETs that costs more than Redis does. Here the bytes are fed to hiredis
as they come, and one future per round trip is resolved. Requests of different tasks share the connection in order.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.connection import parse_url

from services.common.tls import Tls
from services.online.encode import frame
from services.online.failures import ReadTimeout, StoreUnavailable, by_consequence

STALL_S = 1.0
"""A connection on which a timed-out request is still unanswered after this long is given up."""


@dataclass(frozen=True)
class Endpoint:
    """Where Redis is and how to log in."""

    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: Tls | None = None
    path: str | None = None
    """Unix socket; host and port are not used then."""

    @staticmethod
    def from_url(url: str, tls: Tls | None = None) -> "Endpoint":
        """From `redis://[user:password@]host:port/db`, `rediss://...` (TLS, by `tls`) or `unix://path`."""
        parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        return Endpoint(
            host=parts.get("host") or "127.0.0.1",
            port=int(parts.get("port") or 6379),
            db=int(parts.get("db") or 0),
            username=parts.get("username"),
            password=parts.get("password"),
            tls=(tls or Tls()) if url.startswith("rediss://") else None,
            path=parts.get("path"),
        )


@dataclass(eq=False)
class _Pending:
    expected: int
    replies: list[Any]
    answered: asyncio.Future[list[Any]]
    abandoned_at: float | None = None


class _Protocol(asyncio.Protocol):
    """Feeds replies to the requests in the order they were sent."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.pending: deque[_Pending] = deque()
        self._nothing = object()
        self._reader = hiredis.Reader(notEnoughData=self._nothing)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not self._nothing:
                self._deliver(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self.fail(StoreUnavailable(f"out of step with Redis: {error}"))

    def _deliver(self, reply: Any) -> None:
        first = self.pending[0]
        first.replies.append(reply)
        if len(first.replies) == first.expected:
            self.pending.popleft()
            if not first.answered.done():
                first.answered.set_result(first.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(StoreUnavailable(f"connection to Redis lost: {exc or 'closed'}"))

    def fail(self, error: Exception) -> None:
        """Closes the connection and fails all that is waiting on it."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        while self.pending:
            answered = self.pending.popleft().answered
            if not answered.done():
                answered.set_exception(error)


class Wire:
    """A connection that opens on first use and again after a failure; one event loop only."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._protocol: _Protocol | None = None
        self._opening = asyncio.Lock()

    async def ask(self, commands: bytes, expected: int, timeout_s: float) -> list[Any]:
        """Sends packed commands, returns their `expected` replies (a refused one as an exception object).

        Raises StoreUnavailable when Redis cannot be reached, ReadTimeout after `timeout_s` seconds, connecting
        included; StoreRefused when the login fails.
        """
        try:
            async with asyncio.timeout(timeout_s):
                protocol = await self._connected()
                return await _exchange(protocol, commands, expected)
        except TimeoutError as error:
            raise ReadTimeout(f"Redis did not answer within {timeout_s} s") from error

    async def close(self) -> None:
        """Closes the connection; what still waits fails with StoreUnavailable."""
        if self._protocol is not None:
            self._protocol.fail(StoreUnavailable("the reader was closed"))
            self._protocol = None

    async def _connected(self) -> _Protocol:
        protocol = self._protocol
        if protocol is not None and protocol.transport is not None and not _stalled(protocol):
            return protocol
        async with self._opening:
            if self._protocol is None or self._protocol.transport is None or _stalled(self._protocol):
                await self.close()
                self._protocol = await _open(self._endpoint)
            return self._protocol


def _stalled(protocol: _Protocol) -> bool:
    if not protocol.pending or protocol.pending[0].abandoned_at is None:
        return False
    return asyncio.get_running_loop().time() - protocol.pending[0].abandoned_at > STALL_S


async def _exchange(protocol: _Protocol, commands: bytes, expected: int) -> list[Any]:
    if protocol.transport is None:
        raise StoreUnavailable("connection to Redis lost")
    loop = asyncio.get_running_loop()
    pending = _Pending(expected, [], loop.create_future())
    protocol.pending.append(pending)
    protocol.transport.write(commands)
    try:
        return await pending.answered
    except asyncio.CancelledError:
        pending.abandoned_at = loop.time()  # its replies still come and are counted off, then thrown away
        raise


async def _open(endpoint: Endpoint) -> _Protocol:
    loop = asyncio.get_running_loop()
    try:
        tls = endpoint.tls.context() if endpoint.tls else None
        if endpoint.path:
            _, protocol = await loop.create_unix_connection(_Protocol, endpoint.path, ssl=tls)
        else:
            _, protocol = await loop.create_connection(_Protocol, endpoint.host, endpoint.port, ssl=tls)
    except OSError as error:
        raise StoreUnavailable(f"no Redis at {endpoint.host}:{endpoint.port}: {error}") from error
    try:
        await _log_in(protocol, endpoint)
    except BaseException:
        protocol.fail(StoreUnavailable("login was not finished"))
        raise
    return protocol


async def _log_in(protocol: _Protocol, endpoint: Endpoint) -> None:
    commands = []
    if endpoint.password is not None:
        names = [endpoint.username] if endpoint.username else []
        commands.append(["AUTH", *names, endpoint.password])
    if endpoint.db:
        commands.append(["SELECT", str(endpoint.db)])
    if commands:
        replies = await _exchange(protocol, b"".join(map(_packed, commands)), len(commands))
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise by_consequence(reply)


def _packed(words: list[str]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(frame(word.encode()) for word in words)
