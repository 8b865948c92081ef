"""Where Kafka is and how to talk to it: plain text, TLS, mTLS, and SCRAM where the brokers ask for a password."""

from dataclasses import dataclass
from pathlib import Path

from services.common.tls import Tls, Watch

MECHANISM = "SCRAM-SHA-512"


@dataclass(frozen=True)
class Broker:
    """Bootstrap servers with what they ask for. `str()` is the addresses alone."""

    bootstrap: str
    """host:port, comma-separated."""
    tls: Tls | None = None
    username: str = ""
    password_file: Path | None = None

    def __str__(self) -> str:
        return self.bootstrap

    @property
    def protocol(self) -> str:
        """Kafka's name of it.

        >>> Broker("k:9092").protocol, Broker("k:9092", Tls(), "shop").protocol
        ('PLAINTEXT', 'SASL_SSL')
        """
        return ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT")

    def password(self) -> str:
        """As the file holds it now. Raises OSError."""
        return self.password_file.read_text().strip() if self.password_file else ""

    def config(self) -> dict[str, str]:
        """librdkafka's settings, with the password as of now. A client reads the files when it is made, only then."""
        found = {"bootstrap.servers": self.bootstrap}
        if self.protocol != "PLAINTEXT":
            found["security.protocol"] = self.protocol
        if self.tls is not None:
            named = {"ca": self.tls.ca, "certificate": self.tls.cert, "key": self.tls.key}
            found |= {f"ssl.{name}.location": str(path) for name, path in named.items() if path is not None}
        if self.username:
            found |= {"sasl.mechanism": MECHANISM, "sasl.username": self.username, "sasl.password": self.password()}
        return found

    def watch(self) -> Watch:
        """Says when a client that was made now is to be made anew."""
        files = (*(self.tls.files if self.tls else ()), *([self.password_file] if self.password_file else []))
        return Watch(files)


Address = str | Broker
"""Where a broker in plain text is, a string will do."""


def broker(address: Address) -> Broker:
    """The same as a Broker."""
    return address if isinstance(address, Broker) else Broker(address)
