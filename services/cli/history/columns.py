"""Columns of a file as what they mean: ids, numbers, moments, lists."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from services.cli.history.files import Source

MOST_ID, MOST_CONTEXT, MOST_QUERY = 128, 64, 512
"""Characters; ingest refuses longer ones."""

FIRST_US = 946_684_800_000_000
"""2000-01-01: what is earlier is a column of another unit."""

SEPARATOR = "|"
"""Between the entries of a list in a text column."""

_UNITS = ((1e11, 1_000_000.0), (1e14, 1_000.0), (1e17, 1.0), (1e20, 1e-3))
"""Numbers below the first are in units of so many microseconds: seconds, milli-, micro-, nanoseconds."""


def ids(source: Source, name: str, required: bool = True, most: int = MOST_ID) -> list[str | None]:
    """Texts by which things are named, None where there is none. Raises InvalidInput for one ingest would refuse."""
    if not source.has(name):
        return [None] * len(source)
    column = _as_text(source, name)
    if required:
        missing = pc.or_kleene(pc.is_null(column), pc.equal(column, ""))
        source.refuse(missing, name, "missing_value", lambda _: "is empty")
    source.refuse(
        pc.greater(pc.utf8_length(column), most), name, "too_large", lambda _: f"has more than {most} characters"
    )
    source.refuse(pc.invert(pc.utf8_is_printable(column)), name, "malformed", lambda v: f"{v!r} cannot be printed")
    source.refuse(
        pc.not_equal(column, pc.utf8_trim_whitespace(column)),
        name,
        "malformed",
        lambda v: f"{v!r} has spaces around it",
    )
    found: list[str | None] = pc.if_else(pc.equal(column, ""), None, column).to_pylist()
    return found


def texts(source: Source, name: str, most: int) -> list[str | None]:
    """Free texts, cut to so many characters."""
    if not source.has(name):
        return [None] * len(source)
    found: list[str | None] = pc.utf8_slice_codeunits(_as_text(source, name), 0, most).to_pylist()
    return found


def numbers(source: Source, name: str, low: float, high: float) -> NDArray[np.float64]:
    """Numbers [rows], NaN where there is none. Raises InvalidInput for one outside the bounds."""
    if not source.has(name):
        return np.full(len(source), np.nan)
    column = source.column(name)
    found = pc.cast(column, pa.float64()) if _is_number(column) else _parsed_numbers(source, name)
    wrong = pc.or_kleene(pc.less(found, low), pc.greater(found, high))
    source.refuse(wrong, name, "out_of_range", lambda v: f"{v} must lie between {low:g} and {high:g}")
    return np.asarray(pc.fill_null(found, float("nan")).to_numpy(zero_copy_only=False), np.float64)


def moments(source: Source, name: str, now_us: int) -> NDArray[np.int64]:
    """Microseconds since 1970 [rows] of timestamps, dates, ISO 8601 texts or numbers since 1970 of any unit.

    Times without a zone are UTC. Raises InvalidInput for one that is missing, before 2000 or in the future.
    """
    column = source.column(name)
    source.refuse(pc.is_null(column), name, "missing_value", lambda _: "is empty")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        found = pc.cast(pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None)), safe=False), pa.int64())
    elif _is_number(column):
        found = _from_numbers(pc.cast(column, pa.float64()))
    else:
        found = _from_text(source, name)
    wrong = pc.or_(pc.less(found, FIRST_US), pc.greater(found, now_us))
    source.refuse(wrong, name, "out_of_range", lambda v: f"{v} lies before 2000 or in the future")
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def lists(source: Source, name: str) -> list[list[str]]:
    """Lists of ids: a list column, or texts with `|` between the entries; empty where there is none."""
    if not source.has(name):
        return [[]] * len(source)
    column = source.column(name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [[str(v) for v in row if v is not None] if row else [] for row in column.to_pylist()]
    return [
        [p.strip() for p in row.split(SEPARATOR) if p.strip()] if row else []
        for row in _as_text(source, name).to_pylist()
    ]


def _is_number(column: pa.Array) -> bool:
    kind = column.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _as_text(source: Source, name: str) -> pa.Array:
    column = source.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        # Ids with a gap are read as 17.0 by many tools; a real fraction is no id.
        fraction = pc.not_equal(pc.floor(column), column)
        source.refuse(fraction, name, "malformed", lambda v: f"{v} is no id")
        column = pc.cast(column, pa.int64())
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowException as error:
        raise source.fault(0, name, "malformed", f"a column of {column.type} is no text") from error


def _parsed_numbers(source: Source, name: str) -> pa.Array:
    column = _as_text(source, name)
    try:
        return pc.cast(column, pa.float64())
    except pa.ArrowInvalid:
        for row, value in enumerate(column.to_pylist()):
            if value is not None and _number(value) is None:
                raise source.fault(row, name, "malformed", f"{value!r} is no number") from None
        raise


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _from_numbers(column: pa.Array) -> pa.Array:
    largest = float(pc.max(pc.abs(column)).as_py() or 0)
    unit = next((microseconds for bound, microseconds in _UNITS if largest < bound), 1e-3)
    return pc.cast(pc.round(pc.multiply(column, unit)), pa.int64())


def _from_text(source: Source, name: str) -> pa.Array:
    column = _as_text(source, name)
    first = column[0].as_py()
    if _number(first) is not None:
        return _from_numbers(_parsed_numbers(source, name))
    for zone in (None, "UTC"):
        try:
            return pc.cast(pc.cast(column, pa.timestamp("us", zone)), pa.int64())
        except pa.ArrowInvalid:
            continue
    return pa.array([_iso(source, name, row, value) for row, value in enumerate(column.to_pylist())], pa.int64())


def _iso(source: Source, name: str, row: int, value: str) -> int:
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise source.fault(row, name, "malformed", f"{value!r} is no time") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)
