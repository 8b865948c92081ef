"""Page tokens: the rest of an answer's order, signed, so that page 2 is stable whichever pod answers it.

A token is base64url of: HMAC-SHA256 (first 16 bytes) over user and body, then the body: zlib-packed JSON. Nothing is
kept in the service. It is signed with the keys of the attribution tokens and lives for half an hour.
"""

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.common.errors import InvalidInput
from services.common.tokens import Tokens

LIFE_S = 1800
MOST_BYTES = 64 * 1024
_MAC = 16
_FIELD = "page_token"


@dataclass(frozen=True)
class Rest:
    """What the following pages show."""

    ids: Sequence[str]
    page: int
    """Number of the next page, 1 = the second."""
    position: int
    """Position of its first item."""
    size: int
    """Items per page."""
    placement: str
    issued_s: int
    query: str = ""
    """What was searched for."""


class Pages:
    """Writes and reads page tokens of one set of keys."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def write(self, rest: Rest, user: str) -> str:
        """Token for the rest of an answer; empty when nothing is left."""
        if not rest.ids:
            return ""
        body = bytes([self._tokens.signing]) + zlib.compress(json.dumps(asdict(rest)).encode(), 1)
        return base64.urlsafe_b64encode(self._mac(body, user) + body).rstrip(b"=").decode()

    def read(self, token: str, user: str, now_us: int) -> Rest:
        """Raises InvalidInput with field `page_token` when it is not ours, not this user's, or too old."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _bad("is not a page token") from error
        mac, body = raw[:_MAC], raw[_MAC:]
        if len(body) < 2 or body[0] not in self._tokens.keys or not hmac.compare_digest(mac, self._mac(body, user)):
            raise _bad("was not issued to this user")
        unpacked = zlib.decompressobj().decompress(body[1:], MOST_BYTES)
        rest = Rest(**json.loads(unpacked))
        if now_us // 1_000_000 - rest.issued_s > LIFE_S:
            raise _bad("has expired, ask for the first page again")
        return rest

    def _mac(self, body: bytes, user: str) -> bytes:
        secret = self._tokens.keys[body[0]]
        return hmac.digest(secret, b"page\0" + user.encode() + b"\0" + body, hashlib.sha256)[:_MAC]


def _bad(detail: str) -> InvalidInput:
    return InvalidInput(_FIELD, "bad_token", detail)
