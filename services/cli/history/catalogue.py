"""The catalogue of the past: rows of a file as items, in calls that the gateway takes."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from freshrank.v1.ranking_pb2 import Item

from services.cli.history import columns
from services.cli.history.files import Source, read
from services.common.content import tokens_of
from services.common.errors import InvalidInput

OPTION = "--catalogue"
COLUMNS = ("item", "title", "description", "categories", "brand", "price", "stock", "published")
CALL = 500
"""Items of one call."""
_MOST_CATEGORIES = 16
_PATH = re.compile(r"items\[(\d+)\]\.(\w+)")
_OURS = {"item_id": "item", "published_us": "published"}


@dataclass(frozen=True)
class Content:
    """What models see of an item."""

    tokens: list[int]
    category: str


class Catalogue:
    """The items of a file."""

    def __init__(self, source: Source, items: list[Item]) -> None:
        self._source = source
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def calls(self) -> Iterator[list[Item]]:
        """The items in lists of at most 500."""
        for start in range(0, len(self.items), CALL):
            yield self.items[start : start + CALL]

    def contents(self) -> dict[str, Content]:
        """Content of each item by id, as the gateway computes it."""
        return {
            item.item_id: Content(
                tokens_of(item.categories, item.brand, item.title), item.categories[0] if item.categories else ""
            )
            for item in self.items
        }

    def blame(self, error: InvalidInput, first: int) -> InvalidInput:
        """The gateway's refusal of `items[k].field`, in terms of the file; `first`: place of the call's first item."""
        match = _PATH.match(error.field)
        if match is None:
            return error
        return self._source.fault(first + int(match[1]), _OURS.get(match[2], match[2]), error.reason, error.detail)


def read_catalogue(path: Path, mapping: Mapping[str, str], now_us: int) -> Catalogue:
    """Read and check a file. Raises InvalidInput naming file, row and column of the first fault."""
    source = read(OPTION, path, COLUMNS, ("item",), mapping)
    names = columns.ids(source, "item")
    _once(source, names)
    texts = [columns.texts(source, name, 2_000) for name in ("title", "description", "brand")]
    categories = columns.lists(source, "categories")
    prices = columns.numbers(source, "price", 0, 1e9).tolist()
    stocks = columns.numbers(source, "stock", 0, 1e15).tolist()
    published = columns.moments(source, "published", now_us).tolist() if source.has("published") else [0] * len(source)
    items = []
    for row, (name, title, description, brand) in enumerate(zip(names, *texts, strict=True)):
        if len(categories[row]) > _MOST_CATEGORIES:
            raise source.fault(row, "categories", "too_large", f"has more than {_MOST_CATEGORIES}")
        item = Item(item_id=name or "", title=title or "", description=description or "", brand=brand or "")
        item.categories.extend(categories[row])
        item.published_us = published[row]
        if not math.isnan(prices[row]):
            item.price = prices[row]
        if not math.isnan(stocks[row]):
            item.stock = int(stocks[row])
        items.append(item)
    return Catalogue(source, items)


def _once(source: Source, names: list[str | None]) -> None:
    seen: set[str | None] = set()
    for row, name in enumerate(names):
        if name in seen:
            raise source.fault(row, "item", "duplicate", f"{name!r} comes a second time")
        seen.add(name)
