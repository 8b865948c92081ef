"""What searches teach an encoder: which of the items shown for a query were chosen, and which were passed over. Pure.

A search is learned when its click window has ended (CLOSED). Clicked items answer the query. Items above the last click
that were not clicked were most probably looked at and passed over (Joachims, 2002: "skip above"), so they are its hard
negatives, the nearest to the click first; what stands below the last click says nothing and is none. A cart or a
purchase that comes (FLIP) counts its pair once more. The joiner gives no label to what bots do; answers that did not
look at the query (popular items) are passed over here. That items shown first are clicked more often is not corrected:
a pair says that an item answers a query, not how well beside others.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import Degradation

from services.common.ids import key_of
from services.common.records import CLOSED, FLIP
from services.trainer.examples import Example
from services.trainer.text.replay import Pairs

SHOWN = 20
"""Items of a list that are kept, beside those down to its last click."""
CLICK = 1
"""Label bit of the first head, whose window closes a list."""


@dataclass(frozen=True)
class Search:
    """One answered query."""

    query: str
    owner: int
    """Key of the shopper."""
    time_us: int
    """Log time at which this was known."""
    items: tuple[str, ...]
    """As shown: ids, or their texts once `told` has put them there."""
    chosen: tuple[int, ...]
    """Places in `items`."""

    @property
    def judged(self) -> bool:
        """Whether an order of its items can be right or wrong."""
        return len(set(self.chosen)) < len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Search.of` gives an equal one."""
        return asdict(self)

    @staticmethod
    def of(data: dict[str, Any]) -> "Search":
        """Of plain data."""
        return Search(**data | {"items": tuple(data["items"]), "chosen": tuple(data["chosen"])})


def search_of(example: Example) -> Search | None:
    """What an example teaches; None: nothing."""
    shown = example.impression
    if not shown.query or shown.degradation == Degradation.DEGRADATION_POPULAR:
        return None
    labelled = [(k, int(bits)) for k, bits in zip(example.items, example.labels, strict=True) if shown.items[k].shown]
    if example.kind == FLIP:
        labelled = [(k, bits) for k, bits in labelled if bits & ~CLICK]
    elif example.kind != CLOSED:
        return None
    chosen = tuple(place for place, (_, bits) in enumerate(labelled) if bits)
    if not chosen:
        return None
    items = tuple(shown.items[k].item_id for k, _ in labelled[: max(SHOWN, chosen[-1] + 1)])
    return Search(shown.query, key_of(example.user), example.time_us, items, chosen)


def told(search: Search, text_of: Callable[[str], str]) -> Search | None:
    """With texts for ids; items without a text are left out. None: no chosen item has one."""
    texts = [text_of(item) for item in search.items]
    known = [place for place, text in enumerate(texts) if text]
    chosen = tuple(place for place, before in enumerate(known) if before in search.chosen)
    return replace(search, items=tuple(texts[place] for place in known), chosen=chosen) if chosen else None


def passed_over(search: Search, most: int) -> list[str]:
    """Texts above the last chosen place that were not chosen, the nearest first.

    >>> passed_over(Search("q", 0, 0, ("a", "b", "c", "d", "e"), (1, 3)), 5)
    ['c', 'a']
    """
    right = {search.items[place] for place in search.chosen}
    above = (search.items[place] for place in range(search.chosen[-1] - 1, -1, -1))
    return [text for text in dict.fromkeys(above) if text not in right][:most]


def batches(searches: Sequence[Search], size: int, negatives: int, chance: np.random.Generator) -> list[Pairs]:
    """All pairs in an order of chance, so that a step holds different queries; `size` of them in each."""
    rows = [(search, search.items[place]) for search in searches for place in search.chosen]
    order = [rows[place] for place in chance.permutation(len(rows))]
    return [_pairs(order[begin : begin + size], negatives) for begin in range(0, len(order), size)]


def _pairs(rows: Sequence[tuple[Search, str]], negatives: int) -> Pairs:
    wrong = dict.fromkeys(text for search, _ in rows for text in passed_over(search, negatives))
    return Pairs(
        [search.query for search, _ in rows],
        [text for _, text in rows],
        negatives=list(wrong),
        owners=[search.owner for search, _ in rows],
    )
