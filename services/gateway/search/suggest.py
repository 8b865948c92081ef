"""Queries that begin like what has been typed: those that shoppers search for, then words of the catalogue."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.text.normal import normal_query

SHOPPERS = 3
"""So many different shoppers must have searched for a query before others are shown it: it may say who they are."""

HALF_LIFE_S = 3 * 24 * 3600.0
MOST_LETTERS = 80


@dataclass
class _Seen:
    weight: float
    at_s: float
    shoppers: set[int] = field(default_factory=set)


class QueryCounts:
    """How often queries that found something were searched lately, as this process saw it: a hint, not a feature.

    >>> counts = QueryCounts(); [counts.saw("Red shoes", user, 0.0) for user in ("a", "b", "c")] and None
    >>> counts.beginning("red", 5, 0.0)
    ['red shoes']
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def saw(self, query: str, user: str, now_s: float) -> None:
        """A shopper searched for it and found something."""
        text = normal_query(query)
        if text is None or len(text) > MOST_LETTERS:
            return
        seen = self._seen.pop(text, None) or _Seen(0.0, now_s)
        seen.weight = 1.0 + _faded(seen, now_s)
        seen.at_s = now_s
        if len(seen.shoppers) < SHOPPERS:
            seen.shoppers.add(hash(user))
        self._seen[text] = seen
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def beginning(self, prefix: str, count: int, now_s: float) -> list[str]:
        """The most searched queries that begin so."""
        found = [
            (_faded(seen, now_s), text)
            for text, seen in self._seen.items()
            if text.startswith(prefix) and len(seen.shoppers) >= SHOPPERS
        ]
        return [text for _, text in sorted(found, key=lambda pair: (-pair[0], pair[1]))[:count]]


def _faded(seen: _Seen, now_s: float) -> float:
    return seen.weight * math.exp2(-max(0.0, now_s - seen.at_s) / HALF_LIFE_S)


def completed(
    prefix: str,
    count: int,
    searched: Sequence[str],
    beginning: Callable[[str, int], Sequence[tuple[str, int]]],
    words_of: Callable[[str], Sequence[str]],
) -> list[str]:
    """`searched` queries first, then the last word completed by the catalogue's words."""
    found = list(searched[:count])
    typed = words_of(prefix)
    if len(found) < count and typed and not prefix.endswith(" "):
        begin = " ".join(typed[:-1])
        for word, _ in beginning(typed[-1], count):
            query = f"{begin} {word}".strip()
            if query not in found and len(found) < count:
                found.append(query)
    return found
