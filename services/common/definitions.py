"""What a streaming feature is: read from Feast's registry, checked once, the same for every service (design D1).

A feature is an aggregation (function, column, window, slide) of a view, plus what its tags add: a filter `where`,
`n`, `half_life`, `numerator`, `denominator`, `prior`, `prior_weight`. Its id is a hash of all of it, so a changed
definition under the same name is another feature. Pure: nothing here knows Feast.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from services.common import filters
from services.common.errors import InvalidInput
from services.common.filters import COLUMNS
from services.common.spec import FeatureRef

MAX_TILES = 128
"""Tiles (slides) in one window: bounds the state of one key."""

MAX_N = 200
"""Longest list of `last_n` and `top_k`."""

DAY_US = 24 * 3600 * 1_000_000
LONGEST_WINDOW_US = 30 * DAY_US
"""What the log holds, so what a new feature can be filled from."""

_UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": DAY_US}

_COUNTS = frozenset({"INT64", "INT32", "FLOAT32", "FLOAT64", "BOOL"})
_REALS = frozenset({"FLOAT32", "FLOAT64"})
_BY_COLUMN = {
    "text": frozenset({"STRING", "BYTES"}),
    "real": _REALS,
    "kind": frozenset({"INT64", "INT32"}),
    "time": frozenset({"INT64", "UNIX_TIMESTAMP"}),
}
_ANY, _NUMBER, _ORDERED, _NAMES = ("text", "real", "kind", "time"), ("real",), ("real", "time"), ("text", "kind")


@dataclass(frozen=True)
class FunctionRules:
    """What a function accepts: types of column, types of value (None: as the column's), the tags it needs."""

    columns: tuple[str, ...]
    types: frozenset[str] | None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    lists: bool = False


FUNCTIONS = {
    "count": FunctionRules(_ANY, _COUNTS),
    "sum": FunctionRules(_NUMBER, _REALS),
    "mean": FunctionRules(_NUMBER, _REALS),
    "std": FunctionRules(_NUMBER, _REALS),
    "min": FunctionRules(_ORDERED, None),
    "max": FunctionRules(_ORDERED, None),
    "count_distinct": FunctionRules(_ANY, _COUNTS),
    "last": FunctionRules(_ANY, None),
    "last_n": FunctionRules(_ANY, None, ("n",), lists=True),
    "top_k": FunctionRules(_NAMES, None, ("n",), lists=True),
    "ratio": FunctionRules(_ANY, _REALS, ("numerator", "denominator"), ("prior", "prior_weight")),
    "decay": FunctionRules(_ANY, _REALS, ("half_life",)),
}
"""Every function. count, ratio and decay look only at whether their column has a value."""

JOIN_COLUMNS = {
    "user_id": "user", "session_id": "session", "item_id": "item", "category": "category", "query": "query",
}  # fmt: skip
"""Column that holds each join key."""

_TAGS = ("where", "n", "half_life", "numerator", "denominator", "prior", "prior_weight")


class Defined:
    """What has a name in a view and an id that is a hash of its definition; for frozen dataclasses."""

    view: str
    name: str

    @cached_property
    def id(self) -> int:
        """Unsigned 32-bit id of name and definition together."""
        return feature_id(self)

    @property
    def hash8(self) -> str:
        """The id as eight hex digits: a superseded definition is stored as `view:name@hash8`."""
        return f"{self.id:08x}"

    @property
    def ref(self) -> FeatureRef:
        """As a model's input names it."""
        return FeatureRef(self.id, self.name, self.view)


@dataclass(frozen=True)
class FeatureDefinition(Defined):
    """One streaming feature. Filters are in their canonical spelling; times in microseconds; 0 or "" = not used."""

    view: str
    name: str
    join_keys: tuple[str, ...]
    function: str
    column: str
    window_us: int
    slide_us: int
    value_type: str
    """Name of `services.online.encode.Kind`: INT64, FLOAT32, STRING, INT64_LIST, ..."""
    where: str = ""
    n: int = 0
    half_life_us: int = 0
    numerator: str = ""
    denominator: str = ""
    prior: float = 0.0
    prior_weight: float = 0.0

    @property
    def tiles(self) -> int:
        """Slides in the window."""
        return self.window_us // self.slide_us

    @property
    def is_list(self) -> bool:
        """True when a value is a list."""
        return self.value_type.endswith("_LIST")


def feature_id(definition: Any) -> int:
    """Unsigned 32-bit id of name and definition (a frozen dataclass: FeatureDefinition, CrossFeature); never 0.

    Two of 1,000 features share an id with probability 1e-4; `Plan` refuses such a pair.
    """
    return int(hash8(asdict(definition)), 16) or 1


def hash8(data: Any) -> str:
    """Eight hex digits of plain data, the same in every process.

    >>> hash8({"a": 1, "b": 2}) == hash8({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]


def from_json(data: Mapping[str, Any]) -> FeatureDefinition:
    """Read back `dataclasses.asdict` of a definition."""
    return FeatureDefinition(**{**data, "join_keys": tuple(data["join_keys"])})


def duration_us(text: str) -> int:
    """Microseconds of a duration such as `90s`, `5m`, `6h` or `7d`. Raises InvalidInput.

    >>> duration_us("5m")
    300000000
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise InvalidInput("duration", "bad_duration", f"{text!r} is not a duration such as 90s, 5m, 6h or 7d")
    return int(float(found[1]) * _UNITS[found[2]])


def define(
    view: str,
    join_keys: Sequence[str],
    name: str,
    function: str,
    column: str,
    window_us: int,
    slide_us: int,
    value_type: str,
    tags: Mapping[str, str],
    longest_us: int = LONGEST_WINDOW_US,
) -> FeatureDefinition:
    """Check and build a definition.

    Raises InvalidInput with field `view:name`, a sentence, and a reason: wrong_entity, unknown_function,
    unknown_column, wrong_column, wrong_type, bad_filter, bad_window, too_many_tiles, window_too_long, missing_tag,
    unknown_tag or bad_tag.
    """
    try:
        _check_keys(join_keys)
        rules = _rules(function)
        _check_column(rules, function, column)
        _check_type(rules, column, value_type)
        _check_window(window_us, slide_us, longest_us)
        _check_tags(rules, function, tags)
        return FeatureDefinition(
            view, name, tuple(join_keys), function, column, window_us, slide_us, value_type, **_tag_values(tags)
        )
    except InvalidInput as error:
        raise InvalidInput(f"{view}:{name}", error.reason, error.detail) from error


def by_user(join_keys: Sequence[str]) -> bool:
    """True when the view is folded from the log keyed by user; otherwise from the one keyed by item or query."""
    return "user_id" in join_keys or "session_id" in join_keys


def by_query(join_keys: Sequence[str]) -> bool:
    """True when the view is folded from the rows that lie on the partition of their query."""
    return "query" in join_keys and not by_user(join_keys)


def _check_keys(join_keys: Sequence[str]) -> None:
    for key in join_keys:
        if key not in JOIN_COLUMNS:
            raise _invalid("wrong_entity", f"no column holds the join key {key!r}; there are {', '.join(JOIN_COLUMNS)}")
    if not by_user(join_keys) and "item_id" not in join_keys and "query" not in join_keys:
        why = "a view needs user, session, item or query among its entities: logs are keyed by them"
        raise _invalid("wrong_entity", why)


def _rules(function: str) -> FunctionRules:
    if function not in FUNCTIONS:
        raise _invalid("unknown_function", f"there is no function {function!r}; there are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[function]


def _check_column(rules: FunctionRules, function: str, column: str) -> None:
    if column not in COLUMNS:
        raise _invalid("unknown_column", f"there is no column {column!r}; there are {', '.join(COLUMNS)}")
    if COLUMNS[column] not in rules.columns:
        raise _invalid("wrong_column", f"{function} needs a column of type {' or '.join(rules.columns)}, not {column}")


def _check_type(rules: FunctionRules, column: str, value_type: str) -> None:
    allowed = rules.types or _BY_COLUMN[COLUMNS[column]]
    names = sorted(f"{name}_LIST" if rules.lists else name for name in allowed)
    if value_type not in names:
        raise _invalid("wrong_type", f"the value can be {' or '.join(names)}, not {value_type}")


def _check_window(window_us: int, slide_us: int, longest_us: int) -> None:
    if window_us <= 0 or slide_us <= 0 or window_us % slide_us:
        raise _invalid("bad_window", "the window must be a whole number of slides; both are required")
    if window_us // slide_us > MAX_TILES:
        raise _invalid("too_many_tiles", f"{window_us // slide_us} slides in the window, at most {MAX_TILES}")
    if window_us > longest_us:
        held = longest_us / DAY_US
        raise _invalid("window_too_long", f"the window is longer than the {held:g} days that log and archive hold")


def _check_tags(rules: FunctionRules, function: str, tags: Mapping[str, str]) -> None:
    for tag in tags:
        if tag not in _TAGS:
            raise _invalid("unknown_tag", f"there is no tag {tag!r}; there are {', '.join(_TAGS)}")
        if tag != "where" and tag not in rules.needs + rules.takes:
            raise _invalid("unknown_tag", f"{function} has no use for the tag {tag!r}")
    for tag in rules.needs:
        if not tags.get(tag):
            raise _invalid("missing_tag", f"{function} needs the tag {tag!r}")


def _tag_values(tags: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        tag: str(filters.parse(tags[tag])) for tag in ("where", "numerator", "denominator") if tags.get(tag)
    }
    if "n" in tags:
        values["n"] = int(_number("n", tags["n"], 1, MAX_N))
        if values["n"] != float(tags["n"]):
            raise _invalid("bad_tag", f"n must be a whole number, not {tags['n']!r}")
    if "half_life" in tags:
        values["half_life_us"] = duration_us(tags["half_life"])
    for tag in ("prior", "prior_weight"):
        if tag in tags:
            values[tag] = _number(tag, tags[tag], 0, 1e9)
    return values


def _number(tag: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise _invalid("bad_tag", f"{tag} must be a number, not {text!r}") from error
    if not low <= value <= high:
        raise _invalid("bad_tag", f"{tag} must lie between {low:g} and {high:g}, not {text!r}")
    return value


def _invalid(reason: str, detail: str) -> InvalidInput:
    return InvalidInput("definition", reason, detail)
