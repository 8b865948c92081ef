"""Free loopback ports, held so that two stacks that start at once never pick the same one.

A port number is claimed by an abstract Unix socket of that name: a lock that lives in the network's own
namespace, needs no file, and goes with the process that holds it.
"""

import contextlib
import random
import socket

_FIRST, _LAST = 20_000, 32_000
"""Below the range from which systems take the ports of outgoing connections, so no client gets in between."""


class Ports:
    """Hands out ports and keeps them claimed until `close`."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._random = random.SystemRandom()

    def take(self) -> int:
        """A port that nothing listens on and no other stack has claimed."""
        while True:
            port = self._random.randrange(_FIRST, _LAST)
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0freshrank-port-{port}")
            except OSError:
                claim.close()
                continue
            if _is_free(port):
                self._claims.append(claim)
                return port
            claim.close()

    def close(self) -> None:
        """Give all of them back."""
        for claim in self._claims:
            claim.close()
        self._claims.clear()


def _is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        # Sockets of earlier runs that linger in TIME_WAIT do not stop a server, so they must not stop the probe.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
