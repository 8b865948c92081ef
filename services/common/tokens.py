"""Attribution tokens: proof that an answer was given to this shopper, and the join key of the clicks on it.

A token is base64url, without padding, of: key id (1 byte), impression id (16), second of issue (4, unsigned, big
endian), the query that was answered (UTF-8, of no length for what is no search), and the first 16 bytes of HMAC-SHA256
over all those and the user id. Keys rotate: one signs, all of them check, so a key is added everywhere first, then made
the signing one, and taken away when its tokens have expired.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import InvalidInput

MAX_AGE_S = 35 * 24 * 3600
"""A token answers for five weeks: longer than the longest label window (purchases, 30 days)."""

MAX_AHEAD_S = 300
"""Clocks of gateways and of the log may differ by this much."""

_BODY = struct.Struct(">B16sI")
_MAC_BYTES = 16
_MIN_KEY_BYTES = 16
_QUERY_BYTES = 320
"""Most of a query: with it a token stays below the 512 characters that an event may carry."""

_FIELD = "attribution_token"


@dataclass(frozen=True)
class Tokens:
    """Issues and checks tokens. `keys`: key id (0 to 255) -> secret; `signing`: id of the key that signs."""

    keys: Mapping[int, bytes]
    signing: int
    max_age_s: int = MAX_AGE_S

    @staticmethod
    def parse(text: str, max_age_s: int = MAX_AGE_S) -> "Tokens":
        """Read a setting such as `2:<hex>,1:<hex>`: the first key signs, the others only check.

        Raises InvalidInput with field `token_keys`.

        >>> Tokens.parse("7:" + "ab" * 16).signing
        7
        """
        keys: dict[int, bytes] = {}
        for part in text.split(","):
            number, _, secret = part.strip().partition(":")
            try:
                keys[int(number)] = bytes.fromhex(secret)
            except ValueError as error:
                raise InvalidInput("token_keys", "malformed", "must be <id>:<hex>,<id>:<hex>") from error
        if any(not 0 <= number <= 255 for number in keys):
            raise InvalidInput("token_keys", "out_of_range", "a key id lies between 0 and 255")
        if any(len(secret) < _MIN_KEY_BYTES for secret in keys.values()):
            raise InvalidInput("token_keys", "out_of_range", f"a key has at least {_MIN_KEY_BYTES} bytes")
        return Tokens(keys, next(iter(keys)), max_age_s)

    def issue(self, impression_id: str, user: str, now_us: int, query: str = "") -> str:
        """Token of an impression (32 hex digits) answered to `user`; `query`: what was searched for.

        >>> tokens = Tokens({1: b"k" * 16}, 1)
        >>> token = tokens.issue("0" * 31 + "1", "ada", 5_000_000)
        >>> tokens.check(token, "ada", 6_000_000) == "0" * 31 + "1"
        True
        """
        body = _BODY.pack(self.signing, bytes.fromhex(impression_id), now_us // 1_000_000) + query.encode()
        signed = body + _mac(self.keys[self.signing], body, user)
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def check(self, token: str, user: str, now_us: int) -> str:
        """Impression id of a token that was issued to `user` and has not expired.

        Raises InvalidInput (reason `bad_token`) for anything else.
        """
        key_id, impression, issued_s, body, mac = _parts(token)
        secret = self.keys.get(key_id)
        if secret is None:
            raise _bad("is signed with a key that is not known")
        if not hmac.compare_digest(mac, _mac(secret, body, user)):
            raise _bad("was not issued to this user")
        age_s = now_us // 1_000_000 - issued_s
        if age_s > self.max_age_s:
            raise _bad("has expired")
        if age_s < -MAX_AHEAD_S:
            raise _bad("is from the future")
        return impression.hex()


def impression_of(token: str) -> str:
    """Impression id a token claims, unproved: to look up whose it is before `Tokens.check`.

    Raises InvalidInput when it is no token at all.
    """
    return _parts(token)[1].hex()


def issued_us(token: str) -> int:
    """When a token says it was issued, microseconds rounded down to the second; unproved before `Tokens.check`.

    Raises InvalidInput when it is no token at all.

    >>> issued_us(Tokens({1: b"k" * 16}, 1).issue("0" * 32, "ada", 5_900_000))
    5000000
    """
    return _parts(token)[2] * 1_000_000


def query_of(token: str) -> str:
    """Query that a token says was answered, unproved; empty when it is of no search, or no token at all.

    >>> query_of(Tokens({1: b"k" * 16}, 1).issue("0" * 32, "ada", 5_900_000, "red shoes"))
    'red shoes'
    """
    try:
        body = _parts(token)[3]
        return body[_BODY.size :].decode()
    except (InvalidInput, UnicodeDecodeError):
        return ""


def _parts(token: str) -> tuple[int, bytes, int, bytes, bytes]:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("is not base64url") from error
    if not 0 <= len(raw) - _BODY.size - _MAC_BYTES <= _QUERY_BYTES:
        raise _bad("has the wrong length")
    body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
    return *_BODY.unpack_from(body), body, mac


def _mac(secret: bytes, body: bytes, user: str) -> bytes:
    return hmac.digest(secret, body + user.encode(), hashlib.sha256)[:_MAC_BYTES]


def _bad(detail: str) -> InvalidInput:
    return InvalidInput(_FIELD, "bad_token", detail)
