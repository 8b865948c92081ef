"""A real redis-server on loopback whose acknowledged writes survive its SIGKILL."""

from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.demo.processes import Program
from services.demo.tools import Tools


@dataclass(frozen=True)
class Redis:
    """A server whose append-only file lies in `folder`."""

    folder: Path
    port: int
    socket: Path | None = None
    """Unix socket, besides the port; at most 107 bytes long."""

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}"

    def prepare(self, tools: Tools) -> None:
        """Make the folder; data in it is loaded at the start."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def program(self, tools: Tools) -> Program:
        """How to run it.

        Writes reach the kernel before they are acknowledged and the disk within a second, so a kill of the process
        loses none and a power cut at most a second's.
        """
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        if self.socket is not None:
            settings |= {"unixsocket": str(self.socket), "unixsocketperm": "700"}
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        return Program("redis", (str(tools.redis_server), *options), ready=self.answers)

    def answers(self) -> bool:
        """Whether it is up and has read its file."""
        try:
            with redis.Redis(port=self.port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
