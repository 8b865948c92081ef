"""Serialized `feast.types.Value` -> numbers and Python values, most of it by numpy.

A cell is what HMGET returned: None (absent), b"" (null) or one serialized Value, whose first byte says its type.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.online.encode import Kind
from services.online.keys import ORDER_DTYPE

Cell = bytes | None
_FLOAT32, _FLOAT64 = 0x35, 0x29
_VARINTS = {Kind.INT32.value << 3, Kind.INT64.value << 3, Kind.BOOL.value << 3, Kind.UNIX_TIMESTAMP.value << 3}
_FLOAT_ROW = b"\x82\x01"


def numbers(cells: Sequence[Cell]) -> NDArray[np.float32]:
    """[n] float32 of numeric cells, NaN for null and absent.

    Raises CorruptState for a cell that is not one number (text, a list, damaged bytes).
    """
    out = np.full(len(cells), np.nan, np.float32)
    try:
        data = b"".join(cells)  # type: ignore[arg-type]
    except TypeError:  # some are absent
        cells = [cell or b"" for cell in cells]
        data = b"".join(cells)  # type: ignore[arg-type]
    flat = np.frombuffer(data, np.uint8)
    # Numbers are 5 (float), 9 (double) or at least 2 bytes (varint) and start with their tag. So when every fifth
    # byte is a float's tag, each cell in turn starts on one and is 5 bytes long: they are floats and nothing else.
    if flat.size % 5 == 0 and (flat[::5] == _FLOAT32).all():
        floats = flat.reshape(-1, 5)[:, 1:].copy().view("<f4").ravel()
        if len(floats) == len(cells):
            return floats
        filled = np.fromiter(map(bool, cells), np.bool_, len(cells))
        if int(filled.sum()) == len(floats):
            out[filled] = floats
            return out
    _mixed(cells, flat, out)  # type: ignore[arg-type]
    return out


def _mixed(cells: Sequence[bytes], flat: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    lengths = np.fromiter(map(len, cells), np.int64, len(cells))
    rows = np.flatnonzero(lengths)
    lengths = lengths[rows]
    starts = np.cumsum(lengths) - lengths
    tags = flat[starts]
    done = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for tag in np.unique(tags).tolist():
            mine = tags == tag
            out[rows[mine]] = _of_tag(tag, flat, starts[mine], lengths[mine])
            done += 1


def _of_tag(tag: int, flat: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    for fixed, dtype in ((_FLOAT32, "<f4"), (_FLOAT64, "<f8")):
        if tag == fixed:
            size = np.dtype(dtype).itemsize
            _expect(bool((lengths == 1 + size).all()), tag)
            return np.ascontiguousarray(flat[starts[:, None] + np.arange(1, 1 + size)]).view(dtype).ravel()
    _expect(tag in _VARINTS, tag)
    return _varints(flat, starts + 1, lengths - 1, tag)


def _varints(flat: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any], tag: int) -> NDArray[np.int64]:
    _expect(bool(((lengths > 0) & (lengths <= 10)).all()), tag)
    value = np.zeros(len(starts), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        inside = lengths > place
        byte = flat[starts[inside] + place].astype(np.uint64)
        value[inside] |= (byte & np.uint64(0x7F)) << np.uint64(7 * place)
    return value.view(np.int64)


def _expect(right: bool, tag: int) -> None:
    if not right:
        raise CorruptState(f"not one number (tag {tag:#x})")


def float_rows(cells: Sequence[Cell], dim: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lists of `dim` floats -> ([n, dim] float32, [n] mask); null, absent and lists of another length are zero rows
    with mask False.

    Raises CorruptState for a cell of another type.
    """
    head = _row_head(dim)
    size = len(head) + 4 * dim
    rows = np.zeros((len(cells), dim), np.float32)
    mask = np.fromiter((cell is not None and len(cell) == size for cell in cells), np.bool_, len(cells))
    for cell in cells:
        if cell and not cell.startswith(_FLOAT_ROW):
            raise CorruptState(f"not a list of floats (tag {cell[0]:#x})")
    right = [cell for cell in cells if cell is not None and len(cell) == size]
    if right:
        flat = np.frombuffer(b"".join(right), np.uint8).reshape(-1, size)
        rows[mask] = np.ascontiguousarray(flat[:, len(head) :]).view("<f4")
    return rows, mask


def _row_head(dim: int) -> bytes:
    inner = b"\x0a" + _varint(4 * dim)
    return _FLOAT_ROW + _varint(len(inner) + 4 * dim) + inner


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def event_times(cells: Sequence[Cell]) -> NDArray[np.int64]:
    """[n] microseconds since 1970 of serialized Timestamps; 0 where absent."""
    if len(cells) < _FEW:
        return np.array([_timestamp(cell) for cell in cells], np.int64)
    # Little-endian words of 08 s s s s s 10 n n n n n, padded with zeros: a time from 1978 to 3058.
    words = np.array([cell or b"" for cell in cells], "S16").view("<u8").reshape(len(cells), 2)
    low, high = words[:, 0], words[:, 1]
    after = low >> np.uint64(48)
    usual = (low & np.uint64(0x8080808080FF)) == np.uint64(0x80808008 | 0x80 << 32)
    usual &= (after & np.uint64(0xFF) == 0x10) & (high >> np.uint64(32) == 0) | (after | high == 0)
    nanos = _sevens(low >> np.uint64(56) | high << np.uint64(8))
    out = _sevens(low >> np.uint64(8)) * 1_000_000 + nanos // 1000
    for row in np.flatnonzero(~usual).tolist():
        out[row] = _timestamp(cells[row])
    return out


_FEW = 16
"""Below this a loop is faster than numpy's calls."""


def _sevens(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The low seven bits of each of the lowest five bytes, put together."""
    pairs = words & np.uint64(0x7F007F007F) | (words & np.uint64(0x7F007F00)) >> np.uint64(1)
    fours = pairs & np.uint64(0x3FFF) | (pairs & np.uint64(0x3FFF0000)) >> np.uint64(2)
    joined: NDArray[np.uint64] = fours | (pairs & np.uint64(0x7F00000000)) >> np.uint64(4)
    return joined.view(np.int64)


def _timestamp(cell: Cell) -> int:
    seconds = nanos = place = 0
    while cell and place < len(cell):
        tag = cell[place]
        value, place = _read_varint(cell, place + 1)
        if tag == 0x08:
            seconds = _signed(value)
        elif tag == 0x10:
            nanos = _signed(value)
        else:
            raise CorruptState(f"not a timestamp (tag {tag:#x})")
    return seconds * 1_000_000 + nanos // 1000


def orders(cells: Sequence[Cell]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """([n] epochs, [n] seqs); zero where absent (rows that something else than our store wrote)."""
    zero = bytes(ORDER_DTYPE.itemsize)
    try:
        table = np.frombuffer(b"".join([cell or zero for cell in cells]), ORDER_DTYPE)
    except ValueError as error:
        raise CorruptState("an order is not 12 bytes") from error
    if len(table) != len(cells):
        raise CorruptState("an order is not 12 bytes")
    return table["epoch"].astype(np.uint32), table["seq"].astype(np.uint64)


def python_value(cell: Cell) -> Any:
    """One cell as the Python value that Feast's SDK gives, except that timestamps stay integers (seconds).

    Raises CorruptState for a type that features do not use (sets, maps) and for damaged bytes.

    >>> python_value(b"\\x12\\x02hi"), python_value(b"\\x20\\x05"), python_value(b""), python_value(None)
    ('hi', 5, None, None)
    """
    if not cell:
        return None
    try:
        tag, place = _read_varint(cell, 0)
        return _READERS[Kind(tag >> 3)](cell, place)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise CorruptState(f"not a known value: {cell[:16].hex()}") from error


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _signed(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def _delimited(data: bytes, place: int) -> tuple[bytes, int]:
    length, place = _read_varint(data, place)
    if place + length > len(data):
        raise ValueError("cut short")
    return data[place : place + length], place + length


def _blobs(data: bytes, place: int) -> list[bytes]:
    inner, _ = _delimited(data, place)
    out, place = [], 0
    while place < len(inner):
        blob, place = _delimited(inner, place + 1)
        out.append(blob)
    return out


def _packed(data: bytes, place: int) -> bytes:
    parts = _blobs(data, place)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _integers(data: bytes, place: int) -> list[int]:
    body, out, at = _packed(data, place), [], 0
    while at < len(body):
        value, at = _read_varint(body, at)
        out.append(_signed(value))
    return out


def _floats(dtype: str) -> Callable[[bytes, int], list[float]]:
    return lambda data, place: np.frombuffer(_packed(data, place), dtype).tolist()


_READERS: dict[Kind, Callable[[bytes, int], Any]] = {
    Kind.BYTES: lambda data, place: _delimited(data, place)[0],
    Kind.STRING: lambda data, place: _delimited(data, place)[0].decode(),
    Kind.INT32: lambda data, place: _signed(_read_varint(data, place)[0]),
    Kind.INT64: lambda data, place: _signed(_read_varint(data, place)[0]),
    Kind.UNIX_TIMESTAMP: lambda data, place: _signed(_read_varint(data, place)[0]),
    Kind.BOOL: lambda data, place: bool(_read_varint(data, place)[0]),
    Kind.FLOAT32: lambda data, place: struct.unpack_from("<f", data, place)[0],
    Kind.FLOAT64: lambda data, place: struct.unpack_from("<d", data, place)[0],
    Kind.BYTES_LIST: _blobs,
    Kind.STRING_LIST: lambda data, place: [blob.decode() for blob in _blobs(data, place)],
    Kind.INT32_LIST: _integers,
    Kind.INT64_LIST: _integers,
    Kind.UNIX_TIMESTAMP_LIST: _integers,
    Kind.FLOAT32_LIST: _floats("<f4"),
    Kind.FLOAT64_LIST: _floats("<f8"),
    Kind.BOOL_LIST: lambda data, place: [bool(v) for v in _integers(data, place)],
}
"""How each kind is read, from the first byte after its tag."""
