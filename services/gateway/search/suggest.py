"""Queries that begin like what has been typed: those that shoppers search for, then words of the catalogue.

Which queries those are, and how many shoppers search for each, comes from the stream by `item_updates`: all gateways
know the same. A query of too few shoppers is not on that topic at all (services/features/asked.py).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from pathlib import Path

from freshrank.v1.models_pb2 import ItemFeatures
from google.protobuf.message import DecodeError

from services.gateway.search.words import words
from services.gateway.table_writer import QUERY, Update

FILE = "queries.tsv"
WRITE_S = 5.0
"""Seconds between two files, each of which holds all queries."""


class QueryBook:
    """The writer's side: what the topic says, in a file of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._shoppers = dict(_read(self._path)) if self._path.is_file() else {}
        self._dirty, self._written_s = False, 0.0

    def apply(self, updates: Iterable[Update]) -> None:
        """Take over what a batch says of queries."""
        for key, value in updates:
            if key.startswith(QUERY):
                self._put(key[len(QUERY) :].decode(errors="replace"), value)

    def settle(self, now_s: float) -> bool:
        """Write when it is time; True when nothing is left to be written."""
        if self._dirty and now_s - self._written_s >= WRITE_S:
            fresh = self._path.with_suffix(".new")
            fresh.write_text("".join(f"{self._shoppers[query]}\t{query}\n" for query in sorted(self._shoppers)))
            fresh.replace(self._path)
            self._dirty, self._written_s = False, now_s
        return not self._dirty

    def _put(self, query: str, value: bytes | None) -> None:
        try:
            shoppers = int(next(iter(ItemFeatures.FromString(value).values), 0)) if value else 0
        except (DecodeError, ValueError, OverflowError):
            shoppers = 0
        self._dirty = True
        if shoppers > 0 and query.isprintable():
            self._shoppers[query] = shoppers
        else:
            self._shoppers.pop(query, None)


class Queries:
    """The readers' side: the queries of a folder as they were last looked at."""

    def __init__(self, folder: Path) -> None:
        self._path, self._seen = folder / FILE, 0
        self._held: tuple[list[str], list[int]] = ([], [])

    @property
    def seen(self) -> int:
        """Grows with what is said of queries."""
        return self._seen

    def refresh(self) -> None:
        """Look again; may run in a thread beside `beginning`."""
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._seen:
                pairs = list(_read(self._path))
                self._held, self._seen = ([query for query, _ in pairs], [n for _, n in pairs]), stamp
        except OSError:  # nobody has searched yet
            return

    def words(self) -> dict[str, int]:
        """Words of all queries, with the number of searches that shoppers make for each."""
        found: Counter[str] = Counter()
        for query, shoppers in zip(*self._held, strict=True):
            found.update(dict.fromkeys(words(query), shoppers))
        return found

    def beginning(self, prefix: str, count: int, keep: Callable[[str], bool] = lambda query: True) -> list[str]:
        """The queries of most shoppers that begin so, of those to keep."""
        queries, shoppers = self._held
        start, end = bisect_left(queries, prefix), bisect_left(queries, f"{prefix}\U0010ffff")
        best = nsmallest(4 * count, range(start, end), key=lambda place: (-shoppers[place], queries[place]))
        return [queries[place] for place in best if keep(queries[place])][:count]


def _read(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_text().splitlines():
        shoppers, _, query = line.partition("\t")
        yield query, int(shoppers)


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
