"""The two gRPC servers: the shop's port and the operator's port, with health and reflection on both."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import tls
from services.common.errors import InvalidInput, TemporaryError

RANKING, ADMIN = "freshrank.v1.Ranking", "freshrank.v1.Admin"
_OPTIONS = [
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


@dataclass(frozen=True)
class ConnectionAge:
    """How long a client keeps one connection: it looks for servers that came later when it opens the next one."""

    seconds: float = 300.0
    """Until no new call begins on it; gRPC spreads this by a tenth, so that not all clients come back at once."""
    grace_s: float = 20.0
    """For calls that are on it then."""

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        return [
            ("grpc.max_connection_age_ms", round(self.seconds * 1e3)),
            ("grpc.max_connection_age_grace_ms", round(self.grace_s * 1e3)),
        ]


@dataclass(frozen=True)
class Tls:
    """PEM files; without a certificate the port speaks plain text. Replaced ones hold from the next handshake on."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def credentials(self) -> Any:
        """Server credentials, None for plain text. Raises InvalidInput when files are missing or do not fit."""
        if self.cert is None or self.key is None:
            if self.cert or self.key or self.client_ca:
                raise InvalidInput("tls_cert", "missing_field", "tls_cert and tls_key are needed together")
            return None
        files = tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)
        watch, mutual = tls.Watch(files, every_s=0.0), self.client_ca is not None
        try:
            tls.check_authority(self.client_ca)
            tls.check_pair("tls_cert", self.cert, self.key)
        except ValueError as error:
            raise InvalidInput("tls_key", "not_usable", str(error)) from error
        made = self._configuration()  # asked for again at each handshake; None = go on with the last one
        return grpc.dynamic_ssl_server_credentials(made, lambda: watch.renewed(self._configuration), mutual)

    def _configuration(self) -> Any:
        ca, key, cert = tls.Tls(self.client_ca, self.cert, self.key).pem()
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


class Server:
    """One port; health says SERVING only between `open` and `drain`."""

    def __init__(
        self,
        name: str,
        interceptors: Sequence[Any],
        reflect: bool,
        share_port: bool = False,
        age: ConnectionAge = ConnectionAge(),
    ) -> None:
        options = [*_OPTIONS, *age.options(), ("grpc.so_reuseport", int(share_port))]
        self.grpc = grpc.aio.server(interceptors=tuple(interceptors), options=options)
        self._name = name
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if reflect:
            names = (name, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.grpc)
        self.port = 0

    async def open(self, host: str, port: int, files: Tls) -> int:
        """Bind and serve, not ready yet; returns the port. Raises TemporaryError when it is taken."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        credentials, address = files.credentials(), f"{host}:{port}"
        try:
            if credentials is None:
                self.port = self.grpc.add_insecure_port(address)
            else:
                self.port = self.grpc.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise TemporaryError(f"{address} cannot be bound: {error}") from error
        await self.grpc.start()
        return self.port

    async def ready(self, is_ready: bool) -> None:
        """Tell health checks."""
        serving = health_pb2.HealthCheckResponse
        await self._say(serving.SERVING if is_ready else serving.NOT_SERVING)

    async def drain(self, seconds: float, leave_s: float = 0.0) -> None:
        """Say NOT_SERVING, go on serving for `leave_s` while clients leave, take no new calls, let those inside finish.

        Returns as soon as the last one has; one that takes longer than `seconds` is cancelled.
        """
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(leave_s)
        await self.grpc.stop(seconds)

    async def _say(self, status: Any) -> None:
        for name in ("", self._name):
            await self._health.set(name, status)
