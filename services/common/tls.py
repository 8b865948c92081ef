"""TLS to other parts by PEM files, which are replaced while the process runs.

cert-manager renews a certificate long before it runs out, and the kubelet puts the new files into the mounted Secret
by the swap of one symlink. A connection keeps what it was opened with; every new one uses the files as they are then.
Files that do not fit together are left alone: what was read last goes on, and they are looked at again.
"""

import logging
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

Made = TypeVar("Made")

LOOK_S = 1.0
"""Between two looks at the files: connections are opened for weeks, and a rotation leaves days."""

_AGAIN = 10
"""Files that did not fit are looked at again after so many times the usual."""

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Tls:
    """Whom a client trusts and, where the other side asks for it, who it is."""

    ca: Path | None = None
    """Authorities of the other side; None = the system's."""
    cert: Path | None = None
    """Own certificate with its chain."""
    key: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that there are."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path is not None)

    def context(self) -> ssl.SSLContext:
        """The files as they are now, for a client. Raises OSError (ssl.SSLError is one) when they do not fit."""
        made = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            load_pair(made, self.cert, self.key)
        return made

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authorities, private key and chain, as gRPC takes them. Raises OSError when they do not fit."""
        self.context()
        ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
        return ca, key, cert


def load_pair(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Certificate and key into a context; a key with a password is refused instead of asked about at the terminal."""
    context.load_cert_chain(cert, key, password=lambda: b"")


def read(file: Path) -> bytes:
    """What a file holds. Raises ValueError with the reason."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


def check_authority(ca: Path | None) -> Path | None:
    """Raises ValueError when a file is not there or holds no certificate."""
    if ca is not None:
        text = read(ca)
        try:
            ssl.create_default_context(cadata=text.decode("ascii"))
        except (ValueError, ssl.SSLError) as error:
            raise ValueError(f"{ca} holds no certificate in PEM") from error
    return ca


def check_file(file: Path | None) -> Path | None:
    """Raises ValueError when a file cannot be read."""
    if file is not None:
        read(file)
    return file


def check_pair(cert_name: str, cert: Path | None, key: Path | None) -> None:
    """Raises ValueError when only one of the two is given, or they are not a certificate and its key."""
    if (cert is None) != (key is None):
        raise ValueError(f"it and {cert_name} are needed together")
    if cert is None or key is None:
        return
    read(cert)
    read(key)
    try:
        load_pair(ssl.create_default_context(), cert, key)
    except (ValueError, ssl.SSLError) as error:
        raise ValueError(f"{key} is not the private key of {cert}, or it has a password") from error


class Watch:
    """Says when files were replaced. Not thread-safe."""

    def __init__(self, files: Iterable[Path], every_s: float = LOOK_S) -> None:
        self._files, self._every_s = tuple(files), every_s
        self._seen = self._stamp()
        self._next = time.monotonic() + every_s

    def changed(self) -> bool:
        """True once per change, at most every `every_s` seconds; files that are away have not changed."""
        if not self._files or (now := time.monotonic()) < self._next:
            return False
        self._next, before = now + self._every_s, self._seen
        self._seen = self._stamp() or before
        return self._seen != before

    def renewed(self, make: Callable[[], Made], *errors: type[Exception]) -> Made | None:
        """What `make` makes of files that were replaced; None when they were not, or do not fit (yet).

        `errors`: of `make` beside OSError, for files that do not fit.
        """
        if not self.changed():
            return None
        unfit: tuple[type[Exception], ...] = (OSError, *errors)
        try:
            made = make()
        except unfit as error:
            self.again()
            log.warning("certificates cannot be renewed", extra={"error": str(error), "files": str(self._files[0])})
            return None
        log.info("certificates renewed", extra={"files": str(self._files[0])})
        return made

    def again(self) -> None:
        """Say the last change once more, after a while: it could not be used."""
        self._seen, self._next = ((0, 0, 0),), time.monotonic() + _AGAIN * self._every_s

    def _stamp(self) -> _Stamp:
        try:
            found = [path.stat() for path in self._files]
        except OSError:
            return ()
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


class RenewingContext(ssl.SSLContext):
    """A client's context for libraries that keep one for good: each connection is made with the files as of then."""

    def __new__(cls, tls: Tls) -> "RenewingContext":
        """A context of the client's protocol."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, tls: Tls) -> None:
        """Raises OSError when the files do not fit."""
        self._tls, self._watch = tls, Watch(tls.files, every_s=0.0)
        self._now = tls.context()

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`."""
        return self._renewed().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext`."""
        return self._renewed().wrap_socket(*args, **kwargs)

    def _renewed(self) -> ssl.SSLContext:
        self._now = self._watch.renewed(self._tls.context) or self._now
        return self._now
