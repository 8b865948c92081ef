"""The text of an item that encoders read, the same in training and in the vectors of the index. Pure."""

import re

from freshrank.v1.models_pb2 import CatalogueItem
from google.protobuf.message import DecodeError

from services.common.ids import key_of

_WORD = re.compile(r"\w+")
MOST_CATEGORIES = 3
MOST_CHARACTERS = 2_000
"""Bounds memory alone: an encoder cuts at its own number of tokens, far below."""


def item_text(entry: CatalogueItem) -> str:
    """Title, brand and first categories unless they stand before, then the description; empty: nothing is known.

    The order matters: an encoder reads the first tokens only.

    >>> item_text(CatalogueItem(title="Acme drill", brand="Acme", categories=["Tools", "Drills"], description="18 V"))
    'Acme drill. Tools. Drills. 18 V'
    """
    said = ""
    for part in (entry.title, entry.brand, *entry.categories[:MOST_CATEGORIES], entry.description):
        words = " ".join(part[:MOST_CHARACTERS].split())
        if words and not (said and _plain(words) in _plain(said)):
            said = f"{said}. {words}" if said else words
    return said[:MOST_CHARACTERS]


def text_of(value: bytes | None) -> str:
    """Text of a catalogue entry as item_updates carries it; empty when it is gone, or cannot be read."""
    try:
        return item_text(CatalogueItem.FromString(value)) if value else ""
    except DecodeError:
        return ""


def text_hash(text: str) -> int:
    """63 bits, so that a signed 64-bit column holds it: equal texts have equal vectors in one encoder."""
    return key_of(text) & (1 << 63) - 1


def _plain(text: str) -> str:
    """Whole words between single spaces."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "
