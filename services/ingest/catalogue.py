"""What ingest knows of the catalogue: the main category and the price of an item."""

import math
from collections.abc import Callable

from freshrank.v1.models_pb2 import CatalogueItem
from google.protobuf.message import DecodeError

Known = tuple[str | None, float | None]
"""Main category and price; None = not known."""

Lookup = Callable[[str], Known]

PREFIX = b"c|"
"""Keys of catalogue entries on item_updates."""

_UNKNOWN: Known = (None, None)


class Catalogue:
    """The newest entry of each item, from the records of item_updates.

    >>> catalogue = Catalogue()
    >>> catalogue.lookup("item-1")
    (None, None)
    """

    def __init__(self) -> None:
        self._items: dict[str, Known] = {}
        self.refused = 0
        """Records that were no catalogue entries although their key said so."""

    def __len__(self) -> int:
        return len(self._items)

    def lookup(self, item: str) -> Known:
        """Category and price of an item as of now."""
        return self._items.get(item, _UNKNOWN)

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the topic; other kinds of key pass by."""
        if key is None or not key.startswith(PREFIX):
            return
        try:
            item = key[len(PREFIX) :].decode()
            entry = CatalogueItem.FromString(value) if value is not None else None
        except (UnicodeDecodeError, DecodeError):
            self.refused += 1
            return
        if entry is None:
            self._items.pop(item, None)
        else:
            category = next((text for text in entry.categories if text), None)
            self._items[item] = (category, entry.price if math.isfinite(entry.price) else None)
