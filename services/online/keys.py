"""Where a value lies in Redis: Feast's keys and hash fields, byte for byte.

One Redis hash per entity holds the features of all its views. Key = Feast's entity key (serialization version 3)
followed by the project's name; field = murmur3_32 of `view:feature`; `_ts:view` = event time; `_ord:view` = our
order. Feast calls this layout part of its public contract; tests compare it with Feast's own functions.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import mmh3
import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

Id = str | int
"""A join-key value: Feast's String or Int64."""

_STRING, _INT64 = 2, 4  # feast.types.ValueType
_LENGTH = struct.Struct("<II")
_INTEGER = struct.Struct("<IIq")
_ORDER = struct.Struct(">IQ")

ORDER_DTYPE = np.dtype([("epoch", ">u4"), ("seq", ">u8")])
"""12 bytes, big-endian: two orders compare like their bytes."""


class Order(NamedTuple):
    """Place of a write: the higher pair wins, whatever its event time."""

    epoch: int
    """u32: raised by a rollback and after data loss."""
    seq: int
    """u64: grows within an epoch (a log position, a row number)."""


def feature_field(view: str, feature: str) -> bytes:
    """Hash field of one feature.

    >>> feature_field("driver_stats", "trips").hex()
    '426aa434'
    """
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def ts_field(view: str) -> bytes:
    """Hash field of a view's event time, as Feast names it."""
    return f"_ts:{view}".encode()


def ord_field(view: str) -> bytes:
    """Hash field of a view's order; Feast does not know it and leaves it alone."""
    return f"_ord:{view}".encode()


def epoch_key(project: str, view: str) -> bytes:
    """Redis key of a view's current epoch."""
    return f"freshrank:{project}:epoch:{view}".encode()


def pack_order(order: Order) -> bytes:
    """12 bytes of an order.

    >>> pack_order(Order(1, 258)).hex()
    '000000010000000000000102'
    """
    try:
        return _ORDER.pack(*order)
    except struct.error as error:
        raise InvalidInput("order", "out_of_range", f"{order} does not fit u32, u64") from error


def pack_orders(epoch: int, seqs: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """[n, 12] bytes of the orders (epoch, seqs[i])."""
    if not 0 <= epoch < 2**32:
        raise InvalidInput("epoch", "out_of_range", f"{epoch} does not fit u32")
    orders = np.empty(len(seqs), ORDER_DTYPE)
    orders["epoch"] = epoch
    orders["seq"] = seqs
    return orders.view(np.uint8).reshape(-1, ORDER_DTYPE.itemsize)


class KeyEncoder:
    """Makes the Redis keys of one kind of entity: the constant parts are packed once."""

    def __init__(self, project: str, join_keys: Sequence[str]) -> None:
        if not join_keys or len(set(join_keys)) != len(join_keys):
            raise InvalidInput("join_keys", "invalid", f"{list(join_keys)} must be distinct and not empty")
        self.project = project
        self.join_keys = tuple(join_keys)
        self._places = sorted(range(len(join_keys)), key=lambda i: join_keys[i])
        names = [join_keys[i].encode() for i in self._places]
        self._head = struct.pack("<I", len(names)) + b"".join(_LENGTH.pack(_STRING, len(n)) + n for n in names)
        self._tail = project.encode()

    def one(self, values: Sequence[Id]) -> bytes:
        """Key of one entity; `values` in the order of `join_keys`.

        Raises InvalidInput for a missing value or one that is neither text nor a 64-bit integer.
        """
        if len(values) != len(self.join_keys):
            raise InvalidInput("values", "invalid", f"{len(values)} values for join keys {self.join_keys}")
        return self._head + b"".join([_pack_id(values[i]) for i in self._places]) + self._tail

    def batch(self, *columns: Sequence[Id]) -> list[bytes]:
        """Keys of many entities, one column per join key in the order of `join_keys`."""
        if len(columns) != len(self.join_keys) or len({len(c) for c in columns}) != 1:
            raise InvalidInput("columns", "invalid", f"one column of equal length per join key {self.join_keys}")
        head, tail, pack = self._head, self._tail, _pack_id
        if len(columns) == 1:
            return [head + pack(v) + tail for v in columns[0]]
        ordered = [columns[i] for i in self._places]
        return [head + b"".join([pack(v) for v in row]) + tail for row in zip(*ordered, strict=True)]


def _pack_id(value: Id) -> bytes:
    if type(value) is str:
        data = value.encode()
        return _LENGTH.pack(_STRING, len(data)) + data
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return _INTEGER.pack(_INT64, 8, value)
    if isinstance(value, str):
        return _pack_id(str(value))
    raise InvalidInput("join key", "invalid", f"{value!r} is neither text nor a 64-bit integer")


@lru_cache(maxsize=256)
def _encoder(project: str, join_keys: tuple[str, ...]) -> KeyEncoder:
    return KeyEncoder(project, join_keys)


def entity_key(project: str, join_keys: tuple[str, ...], values: tuple[Id, ...]) -> bytes:
    """Redis key of one entity; the encoder of the join keys is remembered.

    >>> entity_key("shop", ("user_id",), ("u1",))[-4:]
    b'shop'
    """
    return _encoder(project, join_keys).one(values)


def entity_keys(project: str, join_keys: tuple[str, ...], *columns: Sequence[Id]) -> list[bytes]:
    """Redis keys of many entities, one column of values per join key."""
    return _encoder(project, join_keys).batch(*columns)


def project_of(key: bytes) -> str | None:
    """Project that a Redis key belongs to, None when it is not an entity key.

    A key ends with its project's name, so a search for `*shop` also finds keys of `workshop`: this tells them apart.
    """
    try:
        (count,) = struct.unpack_from("<I", key)
        place = 4
        for _ in range(2 * count):
            _, length = _LENGTH.unpack_from(key, place)
            place += 8 + length
        return key[place:].decode() if place <= len(key) else None
    except (struct.error, UnicodeDecodeError):
        return None
