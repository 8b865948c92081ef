"""Interactions of the past: rows of files, checked and put into time order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from freshrank.v1.events_pb2 import EventKind
from numpy.typing import NDArray

from services.cli.history import columns
from services.cli.history.files import Source, read
from services.common.errors import InvalidInput

OPTION = "--interactions"
SHOWN = 0
"""Kind of a row that shows a list and says nothing about an action."""

KINDS: dict[str, int] = {
    **{name.removeprefix("EVENT_KIND_").lower(): value for name, value in EventKind.items() if value},
    "cart": EventKind.EVENT_KIND_ADD_TO_CART,
    "addtocart": EventKind.EVENT_KIND_ADD_TO_CART,
    "buy": EventKind.EVENT_KIND_PURCHASE,
    "order": EventKind.EVENT_KIND_PURCHASE,
    "transaction": EventKind.EVENT_KIND_PURCHASE,
    "rating": EventKind.EVENT_KIND_RATE,
    "impression": SHOWN,
}
"""Words for kinds of event; `--kinds` adds the shop's own."""

_RANGES = {
    "value": (0.0, 1e9),
    "quantity": (1e-6, 1e6),
    "rating": (0.0, 10.0),
    "play_seconds": (0.0, 604_800.0),
    "play_share": (0.0, 1.0),
}
_CONTEXT = ("region", "device", "platform")
_REQUIRED = ("user", "time")
COLUMNS = (*_REQUIRED, "kind", "item", "session", "query", "event", "list", *_RANGES, *_CONTEXT)
"""Names of columns, ours; `list` holds what was shown together with the item."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """One row; numbers are NaN where there is none."""

    event_id: str
    user: str
    kind: int
    time_us: int
    item: str
    session: str
    query: str
    numbers: tuple[float, float, float, float, float]
    """value, quantity, rating, play_seconds, play_share"""
    context: tuple[str, str, str]
    """region, device, platform"""
    shown: tuple[str, ...]
    """What was shown, in order; empty when not known."""


NUMBERS = tuple(_RANGES)


class History:
    """All interactions of some files, in time order; ties in the order of files and rows."""

    def __init__(self, parts: Sequence[tuple[Source, dict[str, Any]]]) -> None:
        self._parts = parts
        self._times = np.concatenate([part["time"] for _, part in parts])
        self._order = np.argsort(self._times, kind="stable")
        sizes = [len(source) for source, _ in parts]
        self._file = np.repeat(np.arange(len(parts)), sizes)
        self._row = np.concatenate([np.arange(size) for size in sizes])

    def __len__(self) -> int:
        return len(self._times)

    @property
    def first_us(self) -> int:
        """Time of the oldest."""
        return int(self._times.min())

    @property
    def last_us(self) -> int:
        """Time of the newest."""
        return int(self._times.max())

    def __iter__(self) -> Iterator[Interaction]:
        for at in self._order.tolist():
            source, part = self._parts[int(self._file[at])]
            yield _interaction(part, int(self._row[at]))


def read_history(
    paths: Sequence[Path], mapping: Mapping[str, str], kinds: Mapping[str, str], kind: str, now_us: int
) -> History:
    """Read and check files. `kinds`: the shop's word -> ours; `kind`: of files without such a column.

    Raises InvalidInput naming file, row and column of the first fault.
    """
    words = KINDS | {theirs.lower(): kind_of(ours, "--kinds") for theirs, ours in kinds.items()}
    given = kind_of(kind, "--kind") if kind else None
    parts = [_read(path, number, mapping, words, given, now_us) for number, path in enumerate(paths)]
    return History(parts)


def words_of(pairs: Sequence[str]) -> dict[str, str]:
    """`theirs=ours` pairs. Raises InvalidInput.

    >>> words_of(["detail=view"])
    {'detail': 'view'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not equals or not theirs:
            raise InvalidInput("--kinds", "malformed", f"{pair!r} is not <word of the file>=<kind>")
        found[theirs] = ours
    return found


def kind_of(word: str, option: str) -> int:
    """Kind of event by its name. Raises InvalidInput.

    >>> kind_of("purchase", "--kind") == EventKind.EVENT_KIND_PURCHASE
    True
    """
    if word.lower() not in KINDS:
        raise InvalidInput(option, "unknown_kind", f"{word!r} is none of {', '.join(sorted(KINDS))}")
    return KINDS[word.lower()]


def _read(
    path: Path, number: int, mapping: Mapping[str, str], words: Mapping[str, int], given: int | None, now_us: int
) -> tuple[Source, dict[str, Any]]:
    required = _REQUIRED if given is not None else (*_REQUIRED, "kind")
    source = read(OPTION, path, COLUMNS, required, mapping)
    part: dict[str, Any] = {
        name: columns.ids(source, name, name == "user") for name in ("user", "item", "session", "event")
    }
    part |= {name: columns.ids(source, name, False, columns.MOST_CONTEXT) for name in _CONTEXT}
    part |= {name: columns.numbers(source, name, *bounds) for name, bounds in _RANGES.items()}
    part["query"] = columns.texts(source, "query", columns.MOST_QUERY)
    part["time"] = columns.moments(source, "time", now_us)
    part["list"] = columns.lists(source, "list")
    part["kind"] = _kinds(source, words, given)
    # The same file gives the same ids, so that an import done twice counts once where the log still remembers.
    part["mark"] = blake2b(f"{number}:{path.name}:{len(source)}".encode(), digest_size=6).hexdigest()
    _check(source, part)
    return source, part


def _kinds(source: Source, words: Mapping[str, int], given: int | None) -> NDArray[np.int64]:
    if not source.has("kind"):
        return np.full(len(source), given, np.int64)
    found = []
    for row, word in enumerate(columns.ids(source, "kind", given is None)):
        kind = given if word is None else words.get(word.lower())
        if kind is None:
            known = ", ".join(sorted(words))
            raise source.fault(row, "kind", "unknown_kind", f"{word!r} is none of {known}; see --kinds")
        found.append(kind)
    return np.array(found, np.int64)


def _check(source: Source, part: Mapping[str, Any]) -> None:
    """What an event of its kind needs, as ingest asks for it."""
    kinds, lists = part["kind"], part["list"]
    search, rate, play = EventKind.EVENT_KIND_SEARCH, EventKind.EVENT_KIND_RATE, EventKind.EVENT_KIND_PLAY
    for row, (kind, item, query, shown) in enumerate(
        zip(kinds.tolist(), part["item"], part["query"], lists, strict=True)
    ):
        if kind == SHOWN:
            if not shown:
                raise source.fault(row, "list", "missing_value", "an impression shows a list")
        elif kind == search:
            if not item and not query:
                raise source.fault(row, "query", "missing_value", "a search needs a query or an item")
        elif not item:
            raise source.fault(row, "item", "missing_value", "only a search goes without an item")
        elif shown and item not in shown:
            raise source.fault(row, "list", "malformed", f"does not hold the item {item!r}")
        if len(set(shown)) != len(shown) or len(shown) > 1_000:
            raise source.fault(row, "list", "malformed", "holds an item twice, or more than 1,000")
    _needed(source, (kinds == rate) & np.isnan(part["rating"]), "rating", "a rating needs its value")
    no_length = np.isnan(part["play_seconds"]) & np.isnan(part["play_share"])
    _needed(source, (kinds == play) & no_length, "play_seconds", "a play needs its seconds or its share")


def _needed(source: Source, missing: NDArray[np.bool_], name: str, detail: str) -> None:
    if missing.any():
        raise source.fault(int(missing.argmax()), name, "missing_value", detail)


def _interaction(part: Mapping[str, Any], row: int) -> Interaction:
    return Interaction(
        event_id=part["event"][row] or f"import-{part['mark']}-{row}",
        user=part["user"][row],
        kind=int(part["kind"][row]),
        time_us=int(part["time"][row]),
        item=part["item"][row] or "",
        session=part["session"][row] or "",
        query=part["query"][row] or "",
        numbers=tuple(float(part[name][row]) for name in NUMBERS),  # type: ignore[arg-type]
        context=tuple(part[name][row] or "" for name in _CONTEXT),  # type: ignore[arg-type]
        shown=tuple(part["list"][row]),
    )
