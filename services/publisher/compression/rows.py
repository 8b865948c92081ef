"""Embedding rows in fewer bytes: 8-bit integers with a scale per row, or half precision.

Rows of items go to their topic so (`row_codec`); rows of shoppers are Feast's and stay float32. Per-row scales after
Guan et al. (2019), here symmetric, so that a row of zeros - which says that the trainer has let it go - stays one,
and no other becomes one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from freshrank.v1.models_pb2 import ItemRow
from numpy.typing import NDArray

from services.common.encode import Floats, RowLookup
from services.common.errors import CorruptState, InvalidInput

_STEPS = 127
_LEAST = float(np.finfo(np.float32).tiny)
"""Least scale: below it float32 loses digits."""


@dataclass(frozen=True)
class Int8Rows:
    """`values` [n, dim] int8 and `scales` [n] float32: a row is their product."""

    values: NDArray[np.int8]
    scales: Floats

    def decode(self) -> Floats:
        """Rows [n, dim], each number off by at most half its row's scale."""
        return self.values.astype(np.float32) * self.scales[:, None]

    def to_bytes(self) -> bytes:
        """Row after row: 4 bytes of scale, then a byte per number; little-endian."""
        scales = np.ascontiguousarray(self.scales, "<f4").view(np.uint8).reshape(-1, 4)
        return np.concatenate([scales, self.values.view(np.uint8)], axis=1).tobytes()

    @staticmethod
    def from_bytes(data: bytes, dim: int) -> "Int8Rows":
        """The way back. Raises CorruptState when the bytes are no rows of `dim` numbers."""
        if len(data) % (4 + dim):
            raise CorruptState(f"rows: {len(data)} bytes are no rows of {dim} numbers")
        table = np.frombuffer(data, np.uint8).reshape(-1, 4 + dim)
        scales = np.ascontiguousarray(table[:, :4]).view("<f4")[:, 0]
        return Int8Rows(np.ascontiguousarray(table[:, 4:]).view(np.int8), scales.astype(np.float32))


def int8(rows: Floats) -> Int8Rows:
    """Rows [n, dim] with scale = largest absolute number / 127. Raises InvalidInput for numbers that are not finite.

    >>> int8(np.array([[1.0, -0.5], [0.0, 0.0]], np.float32)).values.tolist()
    [[127, -64], [0, 0]]
    """
    _finite(rows)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, np.maximum(largest / np.float32(_STEPS), _LEAST), 0).astype(np.float32)
    steps = np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0)
    return Int8Rows(np.clip(np.rint(steps), -_STEPS, _STEPS).astype(np.int8), scales)


def half(rows: Floats) -> NDArray[np.float16]:
    """Rows [n, dim] in half precision: off by at most 2^-11 of each number from 6.1e-5 on.

    Raises InvalidInput for numbers that are not finite or beyond 65,504.
    """
    _finite(rows)
    if rows.size and np.abs(rows).max() > np.finfo(np.float16).max:
        raise InvalidInput("rows", "out_of_range", "a number is beyond 65504, the largest of half precision")
    return rows.astype(np.float16)


def through_int8(rows: Floats) -> Floats:
    """Rows as they are after the 8-bit codec."""
    return int8(rows).decode()


def through_half(rows: Floats) -> Floats:
    """Rows as they are after half precision."""
    return half(rows).astype(np.float32)


CODECS: Mapping[str, Callable[[Floats], Floats]] = {
    "float32": lambda rows: rows,
    "half": through_half,
    "int8": through_int8,
}
"""By the names of the setting: rows as they are after it."""


def messages(rows: Floats, codec: str) -> list[ItemRow]:
    """One message for each of `rows` [n, dim], with nothing but the row in it."""
    if codec == "int8":
        coded = int8(rows)
        pairs = zip(coded.values, coded.scales.tolist(), strict=True)
        return [ItemRow(int8=values.tobytes(), scale=scale) for values, scale in pairs]
    if codec == "half":
        return [ItemRow(half=values.tobytes()) for values in half(rows).astype("<f2")]
    return [ItemRow(row=values) for values in rows]


class Coded:
    """Rows of another source as they would be after a codec: what serving them so would do to scores."""

    def __init__(self, rows: RowLookup, codec: Callable[[Floats], Floats]) -> None:
        self._rows, self._codec = rows, codec

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        rows, masks = self._rows.items(ids)
        return self._codec(rows), masks

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers."""
        rows, masks = self._rows.users(ids)
        return self._codec(rows), masks


def _finite(rows: Floats) -> None:
    if not np.isfinite(rows).all():
        raise InvalidInput("rows", "not_finite", "a number is not finite")
