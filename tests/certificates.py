"""Authorities and certificates for tests, in folders that change as a mounted Secret does: by the swap of a symlink."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.tls import Tls

_DAY = timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates of loopback."""

    name: str
    hosts: Sequence[str] = ()
    """Further names and addresses that its certificates hold."""
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.certificate = _signed(self.name, self.name, self._key.public_key(), self._key, authority=True)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Chain and private key of a new certificate, for a server on loopback or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = _signed(name, self.name, key.public_key(), self._key, hosts=self.hosts)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return signed.public_bytes(serialization.Encoding.PEM), private


class Secret:
    """A mounted Secret: ca.crt, tls.crt and tls.key, all replaced at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca, self.cert, self.key = (folder / name for name in ("ca.crt", "tls.crt", "tls.key"))
        self.both = folder / "both.pem"
        """Key and chain in one file, as Kafka wants them."""

    @property
    def tls(self) -> Tls:
        """All three, for a client."""
        return Tls(self.ca, self.cert, self.key)

    def put(self, signer: Authority, *trusted: Authority, name: str = "freshrank") -> "Secret":
        """A new certificate of `signer`; `trusted` sign those of the other side, by default the same."""
        chain, key = signer.issue(name)
        version = self._folder / f"..{uuid.uuid4().hex}"
        version.mkdir(parents=True)
        (version / "ca.crt").write_bytes(b"".join(authority.pem for authority in trusted or (signer,)))
        (version / "tls.crt").write_bytes(chain)
        (version / "tls.key").write_bytes(key)
        (version / "both.pem").write_bytes(key + chain)
        swap = self._folder / "..swap"
        swap.symlink_to(version.name)
        os.replace(swap, self._folder / "..data")
        for path in (self.ca, self.cert, self.key, self.both):
            if not path.is_symlink():
                path.symlink_to(Path("..data") / path.name)
        return self


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signed(
    name: str,
    issuer: str,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    authority: bool = False,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [_host(host) for host in ("localhost", "triton.shop.svc", "127.0.0.1", *hosts)]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
