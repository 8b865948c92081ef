"""The small HTTP server of every service: /livez, /readyz, /metrics, /positions.

Liveness is progress: a service that has work and does none is not alive.
"""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from services.common.clock import Clock, WallClock

STALL_SECONDS = 60.0
"""Applied positions that stand still this long while there is a lag mean a stalled consumer."""


class Health:
    """What the service knows about itself; thread-safe by replacing whole values."""

    def __init__(self, clock: Clock | None = None, stall_seconds: float = STALL_SECONDS) -> None:
        self._clock = clock or WallClock()
        self._stall_us = int(stall_seconds * 1e6)
        self._moved_us = self._clock.now_us()
        self._applied: dict[str, int] = {}
        self.lag = 0
        self.ready = False
        self.extra: Callable[[], Mapping[str, Any]] = dict

    def applied(self, topic: str, partition: int, next_offset: int) -> None:
        """Record that everything below `next_offset` took effect."""
        name = f"{topic}-{partition}"
        if self._applied.get(name) != next_offset:
            self._applied = {**self._applied, name: next_offset}
            self._moved_us = self._clock.now_us()

    def revoked(self, topic: str, partition: int) -> None:
        """Forget a partition that another worker owns now."""
        self._applied = {k: v for k, v in self._applied.items() if k != f"{topic}-{partition}"}

    def positions(self) -> dict[str, Any]:
        """Applied positions and what the service adds to them."""
        return {"applied": self._applied, "ready": self.ready, "lag": self.lag, **self.extra()}

    def live(self) -> bool:
        """False when there is a lag and nothing moved for too long."""
        return self.lag == 0 or self._clock.now_us() - self._moved_us < self._stall_us


def serve(health: Health, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Start the server in a thread; port 0 takes a free one (`server.server_port`). Stop with `shutdown()`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = _answer(self.path, health, registry)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Probes are not worth a line each."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


def _answer(path: str, health: Health, registry: CollectorRegistry) -> tuple[int, str, bytes]:
    if path == "/livez":
        return (200, "text/plain", b"ok") if health.live() else (503, "text/plain", b"stalled")
    if path == "/readyz":
        return (200, "text/plain", b"ok") if health.ready else (503, "text/plain", b"starting")
    if path == "/positions":
        return 200, "application/json", json.dumps(health.positions()).encode()
    if path == "/metrics":
        return 200, "text/plain; version=0.0.4", generate_latest(registry)
    return 404, "text/plain", b"not found"
