"""The text of each item, from the records of item_updates. Pure."""

from freshrank.v1.models_pb2 import CatalogueItem
from google.protobuf.message import DecodeError

from services.text.item import item_text

PREFIX = b"c|"
"""Keys of catalogue entries on item_updates."""


class Texts:
    """The newest text of each item.

    >>> texts = Texts()
    >>> texts.apply(b"c|1", CatalogueItem(item_id="1", title="Red shoe").SerializeToString())
    >>> texts.of("1"), texts.of("2")
    ('Red shoe', '')
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def of(self, item: str) -> str:
        """The text of an item; empty: none is known."""
        return self._texts.get(item, "")

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record; other keys, and what is no catalogue entry although its key says so, pass by."""
        if key is None or not key.startswith(PREFIX):
            return
        try:
            item = key[len(PREFIX) :].decode()
            text = item_text(CatalogueItem.FromString(value)) if value is not None else ""
        except (UnicodeDecodeError, DecodeError):
            return
        if text:
            self._texts[item] = text
        else:
            self._texts.pop(item, None)
