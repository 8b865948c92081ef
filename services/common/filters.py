"""The filter language of feature definitions: a few typed comparisons, parsed once, applied to columns.

::

    filter     = term {"or" term}
    term       = factor {"and" factor}
    factor     = "not" factor | "(" filter ")" | test
    test       = column ("==" | "!=" | "<" | "<=" | ">" | ">=") literal
               | column ["not"] "in" "(" literal {"," literal} ")"
               | column "is" ["not"] "null"
    literal    = number | 'text' | "text"

`kind` is compared with names: ``kind == 'click' and price > 10``. A comparison with a missing value is false, and its
`not` is true. Numbers are compared as the column stores them (float32 for prices and the like). Nothing is evaluated
as code.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.records import DWELL, IMPRESSION, REFORMULATION

Mask = NDArray[np.bool_]

KINDS = {
    "view": 1, "click": 2, "add_to_cart": 3, "purchase": 4, "rate": 5, "search": 6, "like": 7, "follow": 8,
    "comment": 9, "play": 10, "impression": IMPRESSION, "reformulation": REFORMULATION,
    "dwell": DWELL,
}  # fmt: skip
"""Names of the kinds that can be aggregated: freshrank.v1.EventKind, one shown item of an impression, a query that was
given up for other words, and the end of a stay with what a search found."""

_KIND_NAMES = {number: name for name, number in KINDS.items()}

COLUMNS = {
    "kind": "kind", "time_us": "time", "user": "text", "session": "text", "item": "text", "category": "text",
    "value": "real", "quantity": "real", "price": "real", "rating": "real", "play_seconds": "real",
    "play_share": "real", "query": "text", "region": "text", "device": "text", "platform": "text",
    "examined": "real", "dwell_seconds": "real",
}  # fmt: skip
"""Columns that definitions may use -> kind, time (microseconds), text or real (float32): those that both
`records.INTERACTIONS` and `records.ITEM_INTERACTIONS` have, `examined`: of a shown item 1 / its place on the page, how
much of a look it got; and `dwell_seconds`: how long a visit stayed with what it had clicked on in a search."""


class Columns(Protocol):
    """Rows a filter is applied to."""

    @property
    def length(self) -> int:
        """Number of rows."""
        ...

    def number(self, name: str) -> tuple[NDArray[Any], Mask]:
        """Values of a column that is not text, and where there is one."""
        ...

    def text(self, name: str) -> tuple[NDArray[np.int32], Sequence[str]]:
        """Codes of a text column, -1 where there is none, and the words they number."""
        ...


@dataclass(frozen=True)
class Compare:
    """column op value."""

    column: str
    op: str
    value: Any

    def __str__(self) -> str:
        return f"{self.column} {self.op} {_literal_text(self.column, self.value)}"


@dataclass(frozen=True)
class In:
    """column in (values)."""

    column: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.column} in ({', '.join(_literal_text(self.column, v) for v in self.values)})"


@dataclass(frozen=True)
class IsNull:
    """column is null."""

    column: str

    def __str__(self) -> str:
        return f"{self.column} is null"


@dataclass(frozen=True)
class Not:
    """The opposite."""

    inner: "Filter"

    def __str__(self) -> str:
        return f"{self.inner.column} is not null" if isinstance(self.inner, IsNull) else f"not ({self.inner})"


@dataclass(frozen=True)
class And:
    """All of them."""

    parts: tuple["Filter", ...]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """Any of them."""

    parts: tuple["Filter", ...]

    def __str__(self) -> str:
        return " or ".join(str(part) for part in self.parts)


Filter = Compare | In | IsNull | Not | And | Or


@lru_cache(maxsize=1024)
def parse(text: str) -> Filter:
    """Read a filter. Raises InvalidInput (reason `bad_filter` or `unknown_column`) that says what is wrong and where.

    >>> str(parse("kind=='click'  and not (price > 10)"))
    "kind == 'click' and not (price > 10.0)"
    """
    return _Parser(text).whole()


def mask(tree: Filter, columns: Columns) -> Mask:
    """Rows that the filter keeps, shape [rows]."""
    if isinstance(tree, And):
        return np.logical_and.reduce([mask(part, columns) for part in tree.parts])  # type: ignore[no-any-return]
    if isinstance(tree, Or):
        return np.logical_or.reduce([mask(part, columns) for part in tree.parts])  # type: ignore[no-any-return]
    if isinstance(tree, Not):
        return ~mask(tree.inner, columns)
    return _test(tree, columns)


def _test(tree: Compare | In | IsNull, columns: Columns) -> Mask:
    if COLUMNS[tree.column] == "text":
        return _test_text(tree, *columns.text(tree.column))
    values, valid = columns.number(tree.column)
    if isinstance(tree, IsNull):
        return ~valid
    if isinstance(tree, In):
        return np.isin(values, np.asarray(tree.values, values.dtype)) & valid
    result: Mask = _OPS[tree.op](values, _as_stored(tree.column, tree.value)) & valid
    return result


def _as_stored(column: str, value: Any) -> Any:
    return np.float32(value) if COLUMNS[column] == "real" else value


def _test_text(tree: Compare | In | IsNull, codes: NDArray[np.int32], words: Sequence[str]) -> Mask:
    if isinstance(tree, IsNull):
        return codes < 0
    wanted = tree.values if isinstance(tree, In) else (tree.value,)
    found = np.isin(codes, [code for code, word in enumerate(words) if word in wanted])
    return (codes >= 0) & ~found if isinstance(tree, Compare) and tree.op == "!=" else found


_OPS: dict[str, Any] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<text>'[^']*'|"[^"]*")"""
    r"""|(?P<op>==|!=|<=|>=|<|>|\(|\)|,)|(?P<word>[A-Za-z_]\w*))"""
)
_RESERVED = frozenset({"and", "or", "not", "in", "is", "null"})


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if not found or not found.lastgroup:
            raise _bad(text, f"cannot read it from {text[place:].strip()[:20]!r} on")
        yield found.lastgroup, found.group(found.lastgroup)
        place = found.end()


def _bad(text: str, detail: str, reason: str = "bad_filter") -> InvalidInput:
    return InvalidInput("where", reason, f"filter {text!r}: {detail}")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*_tokens(text), ("end", "")]
        self._at = 0

    def whole(self) -> Filter:
        tree = self._either()
        if self._tokens[self._at][0] != "end":
            raise _bad(self._text, f"{self._tokens[self._at][1]!r} is one too many")
        return tree

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _take(self, *wanted: str) -> bool:
        """Consume these words or signs if they come next."""
        ahead = [value for kind, value in self._tokens[self._at : self._at + len(wanted)] if kind in ("op", "word")]
        if ahead != list(wanted):
            return False
        self._at += len(wanted)
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _bad(self._text, f"{sign!r} is missing before {self._tokens[self._at][1] or 'the end'!r}")

    def _either(self) -> Filter:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Filter:
        parts = [self._factor()]
        while self._take("and"):
            parts.append(self._factor())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _factor(self) -> Filter:
        if self._take("not"):
            return Not(self._factor())
        if self._take("("):
            tree = self._either()
            self._expect(")")
            return tree
        return self._comparison()

    def _comparison(self) -> Filter:
        kind, column = self._next()
        if kind != "word" or column in _RESERVED:
            raise _bad(self._text, f"a column name is expected instead of {column or 'the end'!r}")
        if column not in COLUMNS:
            raise _bad(self._text, f"there is no column {column!r}; there are {', '.join(COLUMNS)}", "unknown_column")
        if self._take("is", "not", "null"):
            return Not(IsNull(column))
        if self._take("is", "null"):
            return IsNull(column)
        if self._take("not", "in"):
            return Not(self._members(column))
        if self._take("in"):
            return self._members(column)
        return self._compared(column)

    def _compared(self, column: str) -> Filter:
        kind, op = self._next()
        if kind != "op" or op not in _OPS:
            raise _bad(self._text, f"a comparison is expected after {column!r}")
        if COLUMNS[column] in ("text", "kind") and op not in ("==", "!="):
            raise _bad(self._text, f"{column!r} can only be compared by == and !=")
        return Compare(column, op, self._literal(column))

    def _members(self, column: str) -> Filter:
        self._expect("(")
        values = [self._literal(column)]
        while self._take(","):
            values.append(self._literal(column))
        self._expect(")")
        return In(column, tuple(values))

    def _literal(self, column: str) -> Any:
        kind, text = self._next()
        if COLUMNS[column] in ("text", "kind"):
            if kind != "text":
                raise _bad(self._text, f"{column!r} needs a text in quotes, not {text or 'the end'!r}")
            return self._kind(text[1:-1]) if column == "kind" else text[1:-1]
        if kind != "number":
            raise _bad(self._text, f"{column!r} needs a number, not {text or 'the end'!r}")
        return float(text) if COLUMNS[column] == "real" else int(float(text))

    def _kind(self, name: str) -> int:
        if name not in KINDS:
            raise _bad(self._text, f"there is no kind {name!r}; there are {', '.join(KINDS)}")
        return KINDS[name]


def _literal_text(column: str, value: Any) -> str:
    return repr(_KIND_NAMES[value]) if column == "kind" else repr(value)
