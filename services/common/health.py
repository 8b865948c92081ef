"""The small HTTP server of every service: /livez, /readyz, /metrics, /positions.

`/positions?<topic>-<partition>=<next offset>&...` answers when those are applied, or after a second.

Liveness is progress: a service that has work and does none is not alive.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry, generate_latest

from services.common.clock import Clock, WallClock

log = logging.getLogger(__name__)

STALL_SECONDS = 60.0
"""A position that stands still this long while it is behind means a stalled consumer."""

_PROBE_SECONDS = 10.0
_REACH_SECONDS, _LOOK_SECONDS = 1.0, 0.01
_WHOLE = ""


@dataclass(frozen=True)
class _Place:
    """How far one partition is; the one named "" is the whole service."""

    applied: int | None
    lag: int
    since_us: int
    """Since when it has neither moved nor been at the end."""


class Health:
    """What the service knows about itself; thread-safe by replacing whole values."""

    def __init__(self, clock: Clock | None = None, stall_seconds: float = STALL_SECONDS) -> None:
        self._clock = clock or WallClock()
        self._stall_us = int(stall_seconds * 1e6)
        self._places: dict[str, _Place] = {_WHOLE: _Place(None, 0, self._clock.now_us())}
        self._moved = threading.Condition()
        self.ready = False
        self.extra: Callable[[], Mapping[str, Any]] = dict
        """Added to /positions; called in the server's threads."""

    def applied(self, topic: str, partition: int, next_offset: int) -> None:
        """Record that everything below `next_offset` took effect."""
        now_us, name = self._clock.now_us(), f"{topic}-{partition}"
        place = self._places.get(name, _Place(None, 0, now_us))
        if place.applied != next_offset:
            moved = {name: replace(place, applied=next_offset, since_us=now_us)}
            whole = {_WHOLE: replace(self._places[_WHOLE], since_us=now_us)}
            self._places = {**self._places, **moved, **whole}
            with self._moved:
                self._moved.notify_all()

    def behind(self, topic: str, partition: int, lag: int) -> None:
        """Record how many messages of a partition are not applied yet."""
        self._behind(f"{topic}-{partition}", lag)

    def revoked(self, topic: str, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._places = {name: place for name, place in self._places.items() if name != f"{topic}-{partition}"}

    @property
    def lag(self) -> int:
        """Messages not applied yet; a service without partitions of its own sets it as one number."""
        return sum(place.lag for place in self._places.values())

    @lag.setter
    def lag(self, lag: int) -> None:
        self._behind(_WHOLE, lag)

    def positions(self) -> dict[str, Any]:
        """Applied positions and what the service adds to them."""
        applied = {name: place.applied for name, place in self._places.items() if place.applied is not None}
        return {"applied": applied, "ready": self.ready, "lag": self.lag, **self.extra()}

    def reach(self, wanted: Mapping[str, int], seconds: float = _REACH_SECONDS) -> dict[str, Any]:
        """The positions as soon as all `wanted` ones are applied, or as they are after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            found = self.positions()
            applied = found["applied"]
            if all(applied.get(name, 0) >= at for name, at in wanted.items()) or time.monotonic() > until:
                return found
            with self._moved:  # what a service adds itself is not told of: look again soon
                self._moved.wait(_LOOK_SECONDS)

    def live(self) -> bool:
        """False when a partition has been behind, and has not moved, for too long."""
        long_ago_us = self._clock.now_us() - self._stall_us
        return all(place.lag == 0 or place.since_us > long_ago_us for place in self._places.values())

    def _behind(self, name: str, lag: int) -> None:
        place = self._places.get(name, _Place(None, 0, self._clock.now_us()))
        # Work that has just come is not work that was left lying since the last movement.
        since_us = self._clock.now_us() if place.lag == 0 else place.since_us
        self._places = {**self._places, name: replace(place, lag=lag, since_us=since_us)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown(self) -> None:
        """Stop and free the port."""
        super().shutdown()
        self.server_close()


def serve(health: Health, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Start the server in a thread; port 0 takes a free one (`server.server_port`). Stop with `shutdown()`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _PROBE_SECONDS

        def do_GET(self) -> None:
            try:
                path, _, query = self.path.partition("?")
                status, kind, body = _answer(path, query, health, registry)
            except Exception:
                log.exception("no answer", extra={"path": self.path})
                status, kind, body = 500, "text/plain", b"failed"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes are not worth a line each."""

    server = _Server((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def _answer(path: str, query: str, health: Health, registry: CollectorRegistry) -> tuple[int, str, bytes]:
    if path == "/livez":
        return (200, "text/plain", b"ok") if health.live() else (503, "text/plain", b"stalled")
    if path == "/readyz":
        return (200, "text/plain", b"ok") if health.ready else (503, "text/plain", b"starting")
    if path == "/positions":
        try:
            wanted = {name: int(at) for name, at in parse_qsl(query)}
        except ValueError:
            return 400, "text/plain", b"positions are <topic>-<partition>=<next offset>"
        return 200, "application/json", json.dumps(health.reach(wanted), default=_plain).encode()
    if path == "/metrics":
        return 200, "text/plain; version=0.0.4", generate_latest(registry)
    return 404, "text/plain", b"not found"


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item() if hasattr(value, "item") else str(value)
