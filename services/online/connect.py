"""Clients of Redis by its address: over TLS each connection is made with the files as they are then."""

from collections.abc import Mapping
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.connection import ConnectionPool, SSLConnection

from services.common.tls import Tls


class RenewingConnection(SSLConnection):
    """Reads the files anew when it connects again; redis-py's own keeps what it read first."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        return super()._connection_arguments()


def client(url: str, tls: Tls | None, **options: Any) -> redis.Redis:
    """A blocking client; `options` are redis-py's."""
    found: redis.Redis = redis.Redis.from_url(url, **_files(tls), **options)
    return found


def asyncio_client(url: str, tls: Tls | None, **options: Any) -> redis.asyncio.Redis:
    """A client for asyncio; `options` are redis-py's."""
    found: redis.asyncio.Redis = redis.asyncio.from_url(url, **_files(tls), **options)
    if tls is not None:
        renewing(found.connection_pool)
    return found


def renewing(pool: ConnectionPool) -> None:
    """Have a pool's connections read their files anew."""
    if issubclass(pool.connection_class, SSLConnection):
        pool.connection_class = RenewingConnection


def _files(tls: Tls | None) -> dict[str, str]:
    named = {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert, "ssl_keyfile": tls.key} if tls else {}
    return {name: str(path) for name, path in named.items() if path is not None}
