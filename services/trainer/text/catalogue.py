"""Text and main category of each item, from the records of item_updates. Pure."""

from sys import intern

from freshrank.v1.models_pb2 import CatalogueItem
from google.protobuf.message import DecodeError

from services.text.item import item_text

PREFIX = b"c|"
"""Keys of catalogue entries on item_updates."""


class Texts:
    """The newest text of each item, and its main category.

    >>> texts = Texts()
    >>> texts.apply(b"c|1", CatalogueItem(item_id="1", title="Red shoe", categories=["Shoes"]).SerializeToString())
    >>> texts.of("1"), texts.of("2"), texts.category("1"), texts.category("2")
    ('Red shoe. Shoes', '', 'Shoes', '')
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._categories: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def of(self, item: str) -> str:
        """The text of an item; empty: none is known."""
        return self._texts.get(item, "")

    def category(self, item: str) -> str:
        """The main category of an item; empty: none is known."""
        return self._categories.get(item, "")

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record; other keys, and what is no catalogue entry although its key says so, pass by."""
        if key is None or not key.startswith(PREFIX):
            return
        try:
            item = key[len(PREFIX) :].decode()
            entry = CatalogueItem.FromString(value or b"")
        except (UnicodeDecodeError, DecodeError):
            return
        _put(self._texts, item, item_text(entry))
        _put(self._categories, item, intern(entry.categories[0]) if entry.categories else "")


def _put(known: dict[str, str], item: str, said: str) -> None:
    if said:
        known[item] = said
    else:
        known.pop(item, None)
