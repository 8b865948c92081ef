"""Columns of values -> serialized `feast.types.Value`, already framed as RESP bulk strings.

A bulk string is `$<length>CRLF<bytes>CRLF`. Numbers of a fixed width are framed by numpy as one matrix; only what
varies in length (text, lists, varints) costs Python per cell. A null is the empty string, as Feast stores it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

NULL = b"$0\r\n\r\n"


class Kind(Enum):
    """Feast types that features may have; the value is the field number in `feast.types.Value`."""

    BYTES = 1
    STRING = 2
    INT32 = 3
    INT64 = 4
    FLOAT64 = 5
    FLOAT32 = 6
    BOOL = 7
    UNIX_TIMESTAMP = 8
    BYTES_LIST = 11
    STRING_LIST = 12
    INT32_LIST = 13
    INT64_LIST = 14
    FLOAT64_LIST = 15
    FLOAT32_LIST = 16
    BOOL_LIST = 17
    UNIX_TIMESTAMP_LIST = 18

    @property
    def is_list(self) -> bool:
        """True for Feast's `Array(...)` types."""
        return self.value >= Kind.BYTES_LIST.value


@dataclass(frozen=True)
class Column:
    """Values of one feature, one per row.

    `values`: an array (numbers; a matrix [rows, D] for lists of one length) or a list, in which None is null.
    `nulls`: True where the value is null, on top of the Nones; a float NaN is a value, not a null.
    Integers and timestamps (seconds) must be integers: a rounded float would go unnoticed.
    """

    values: NDArray[Any] | Sequence[Any]
    nulls: NDArray[np.bool_] | None = None


def frame(data: bytes) -> bytes:
    """One RESP bulk string.

    >>> frame(b"ab")
    b'$2\\r\\nab\\r\\n'
    """
    return b"$%d\r\n%b\r\n" % (len(data), data)


def frame_fixed(cells: NDArray[np.uint8]) -> list[bytes]:
    """Frames rows of equal width: [n, w] bytes -> n bulk strings."""
    n, width = cells.shape
    head = b"$%d\r\n" % width
    framed = np.empty((n, len(head) + width + 2), np.uint8)
    framed[:, : len(head)] = np.frombuffer(head, np.uint8)
    framed[:, len(head) : -2] = cells
    framed[:, -2:] = (13, 10)
    return _cells(framed)


def _cells(matrix: NDArray[np.uint8]) -> list[bytes]:
    if not len(matrix):
        return []
    void = np.ascontiguousarray(matrix).view(np.dtype((np.void, matrix.shape[1])))
    return cast(list[bytes], void.ravel().tolist())


def varint(value: int) -> bytes:
    """Protobuf varint of a 64-bit integer; negative ones take ten bytes.

    >>> varint(300).hex(), len(varint(-1))
    ('ac02', 10)
    """
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_matrix(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Varints of many integers: ([n, 10] bytes, left-aligned, zero-padded; [n] lengths)."""
    rest = values.astype(np.uint64)
    out = np.zeros((len(rest), 10), np.uint8)
    lengths = np.ones(len(rest), np.int64)
    for place in range(10):
        out[:, place] = rest & np.uint64(0x7F)
        rest = rest >> np.uint64(7)
        more = rest > 0
        if not more.any():
            break
        out[more, place] |= 0x80
        lengths += more
    return out, lengths


def encode_column(name: str, kind: Kind, column: Column, rows: int) -> list[bytes]:
    """Framed cells of one column.

    Raises InvalidInput with the feature's name when the length or a value does not fit the kind.
    """
    if len(column.values) != rows or (column.nulls is not None and len(column.nulls) != rows):
        raise InvalidInput(name, "invalid", f"{len(column.values)} values for {rows} rows")
    values, nulls = _without_nulls(column)
    try:
        cells = _ENCODERS[kind](kind, values)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidInput(name, "invalid", f"not {kind.name}: {error}") from error
    if nulls is None:
        return cells
    filled = iter(cells)
    return [NULL if null else next(filled) for null in nulls.tolist()]


def _without_nulls(column: Column) -> tuple[NDArray[Any] | Sequence[Any], NDArray[np.bool_] | None]:
    values, nulls = column.values, column.nulls
    if isinstance(values, np.ndarray) and values.dtype == object:
        values = values.tolist()
    if isinstance(values, np.ndarray):
        return (values, None) if nulls is None or not nulls.any() else (values[~nulls], nulls)
    missing = np.fromiter((v is None for v in values), np.bool_, len(values))
    if nulls is not None:
        missing |= nulls
    if not missing.any():
        return values, None
    return [v for v, null in zip(values, missing.tolist(), strict=True) if not null], missing


def _floats(kind: Kind, values: Any) -> list[bytes]:
    dtype, tag = (np.dtype("<f4"), 0x35) if kind is Kind.FLOAT32 else (np.dtype("<f8"), 0x29)
    return frame_fixed(_tagged(tag, _numbers(values, dtype)))


def _tagged(tag: int, numbers: NDArray[Any]) -> NDArray[np.uint8]:
    cells = np.empty((len(numbers), 1 + numbers.dtype.itemsize), np.uint8)
    cells[:, 0] = tag
    cells[:, 1:] = numbers.view(np.uint8).reshape(len(numbers), numbers.dtype.itemsize)
    return cells


def _numbers(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" and array.size:
        raise TypeError(f"{array.dtype} is not a number")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)


def _integers(values: Any, bits: int = 64) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{array.dtype} is not an integer")
    limit = 1 << (bits - 1)
    if array.size and not (-limit <= int(array.min()) and int(array.max()) < limit):
        raise OverflowError(f"does not fit {bits} bits")
    return array.astype(np.int64)


def _bools(values: Any) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype != np.bool_ and array.size:
        raise TypeError(f"{array.dtype} is not a truth value")
    return array.astype(np.uint8)


def _varints(kind: Kind, values: Any) -> list[bytes]:
    body, lengths = varint_matrix(_integers(values, 32 if kind is Kind.INT32 else 64))
    tagged = np.empty((len(body), 11), np.uint8)
    tagged[:, 0] = kind.value << 3
    tagged[:, 1:] = body
    if len(lengths) and lengths.min() == lengths.max():
        return frame_fixed(tagged[:, : 1 + lengths[0]])
    return [frame(cell[: 1 + n]) for cell, n in zip(_cells(tagged), lengths.tolist(), strict=True)]


def _truths(kind: Kind, values: Any) -> list[bytes]:
    bits = _bools(values)
    return frame_fixed(np.stack([np.full_like(bits, kind.value << 3), bits], axis=1))


def _blobs(kind: Kind, values: Any) -> list[bytes]:
    tag = bytes([kind.value << 3 | 2])
    return [frame(tag + varint(len(data)) + data) for data in _raw(kind is Kind.STRING, values)]


def _raw(text: bool, values: Iterable[Any]) -> list[bytes]:
    if text:
        return [str.encode(v) for v in values]
    return [_checked(v) for v in values]


def _checked(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is not bytes")
    return bytes(value)


def _list_cell(kind: Kind, inner: bytes) -> bytes:
    return frame(varint(kind.value << 3 | 2) + varint(len(inner)) + inner)


def _packed(kind: Kind, data: bytes) -> bytes:
    return _list_cell(kind, b"\x0a" + varint(len(data)) + data if data else b"")


def _number_lists(kind: Kind, values: Any) -> list[bytes]:
    if isinstance(values, np.ndarray) and values.ndim == 2 and kind is Kind.FLOAT32_LIST and values.shape[1]:
        return _float_rows(kind, _numbers(values, np.dtype("<f4")))
    rows = [_flat(row) for row in values]
    filled = [row for row in rows if row.size]
    if not filled:
        return [_packed(kind, b"") for _ in rows]
    if len({row.dtype.kind == "b" for row in filled}) > 1:
        raise TypeError("truth values among numbers")
    data, sizes = _PACKERS[kind](np.concatenate(filled))  # all lists at once: a call each would cost more than it does
    ends = np.append(0, np.cumsum(sizes))[np.cumsum([row.size for row in rows])].tolist()
    return [_packed(kind, data[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _flat(row: Any) -> NDArray[Any]:
    array = np.asarray(row)
    if array.ndim != 1:
        raise ValueError("a list holds single values")
    return array


def _float_rows(kind: Kind, matrix: NDArray[Any]) -> list[bytes]:
    size = matrix.shape[1] * 4
    inner = b"\x0a" + varint(size)
    head = varint(kind.value << 3 | 2) + varint(len(inner) + size) + inner
    cells = np.empty((len(matrix), len(head) + size), np.uint8)
    cells[:, : len(head)] = np.frombuffer(head, np.uint8)
    cells[:, len(head) :] = matrix.view(np.uint8).reshape(len(matrix), size)
    return frame_fixed(cells)


_Pack = Callable[[NDArray[Any]], tuple[bytes, NDArray[np.int64]]]
"""Values -> their bytes end to end, and the bytes of each."""


def _pack_varints(bits: int) -> _Pack:
    def pack(values: NDArray[Any]) -> tuple[bytes, NDArray[np.int64]]:
        body, lengths = varint_matrix(_integers(values, bits))
        return body[np.arange(10) < lengths[:, None]].tobytes(), lengths

    return pack


def _fixed(array: NDArray[Any]) -> tuple[bytes, NDArray[np.int64]]:
    return array.tobytes(), np.full(len(array), array.dtype.itemsize)


_PACKERS: dict[Kind, _Pack] = {
    Kind.FLOAT32_LIST: lambda values: _fixed(_numbers(values, np.dtype("<f4"))),
    Kind.FLOAT64_LIST: lambda values: _fixed(_numbers(values, np.dtype("<f8"))),
    Kind.INT32_LIST: _pack_varints(32),
    Kind.INT64_LIST: _pack_varints(64),
    Kind.UNIX_TIMESTAMP_LIST: _pack_varints(64),
    Kind.BOOL_LIST: lambda values: _fixed(_bools(values)),
}


def _blob_lists(kind: Kind, values: Any) -> list[bytes]:
    text = kind is Kind.STRING_LIST
    cells = []
    for row in values:
        if isinstance(row, str | bytes):
            raise TypeError("a list is expected, not one value")
        cells.append(_list_cell(kind, b"".join([b"\x0a" + varint(len(d)) + d for d in _raw(text, row)])))
    return cells


_ENCODERS: dict[Kind, Callable[[Kind, Any], list[bytes]]] = {
    Kind.BYTES: _blobs,
    Kind.STRING: _blobs,
    Kind.INT32: _varints,
    Kind.INT64: _varints,
    Kind.FLOAT64: _floats,
    Kind.FLOAT32: _floats,
    Kind.BOOL: _truths,
    Kind.UNIX_TIMESTAMP: _varints,
    Kind.BYTES_LIST: _blob_lists,
    Kind.STRING_LIST: _blob_lists,
    Kind.INT32_LIST: _number_lists,
    Kind.INT64_LIST: _number_lists,
    Kind.FLOAT64_LIST: _number_lists,
    Kind.FLOAT32_LIST: _number_lists,
    Kind.BOOL_LIST: _number_lists,
    Kind.UNIX_TIMESTAMP_LIST: _number_lists,
}
"""How each kind is written."""


def encode_timestamps(event_us: NDArray[np.int64]) -> list[bytes]:
    """Framed `google.protobuf.Timestamp` of event times in microseconds since 1970 (not before)."""
    if len(event_us) and int(event_us.min()) < 0:
        raise InvalidInput("event_us", "out_of_range", "before 1970")
    seconds, micros = np.divmod(event_us, 1_000_000)
    parts = zip(_tagged_varints(0x08, seconds), _tagged_varints(0x10, micros * 1000), strict=True)
    return [frame(second + nano) for second, nano in parts]


def _tagged_varints(tag: int, values: NDArray[np.int64]) -> list[bytes]:
    """Optional protobuf fields: empty for zero, as protobuf leaves defaults out."""
    body, lengths = varint_matrix(values)
    tagged = np.empty((len(body), 11), np.uint8)
    tagged[:, 0] = tag
    tagged[:, 1:] = body
    lengths = np.where(values == 0, 0, lengths + 1)
    return [cell[:n] for cell, n in zip(_cells(tagged), lengths.tolist(), strict=True)]
