"""Files of a stack that speaks mTLS; the pip wheel's Redis speaks none."""

from dataclasses import dataclass
from pathlib import Path

from services.common.tls import Tls


@dataclass(frozen=True)
class Secure:
    """Whom the servers trust and who they are, and the same of their clients on this side."""

    server: Tls
    """`ca` signs clients; a server reads its files when it starts."""
    keystore: Path
    """The server's key and chain in one file, as Kafka wants them."""
    client: Tls
