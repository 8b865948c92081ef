"""Reads features of many entities in one round trip, as matrices: `MatrixReader` (design D10).

The bytes are Feast's; the values equal the SDK's `get_online_features` (tests compare all types). The SDK reports
every cell of a Redis store as PRESENT and never applies a view's ttl; here a row says whether it is there, and a
ttl is applied where the caller gives one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import hiredis
import numpy as np
from numpy.typing import NDArray

from services.online import decode
from services.online.encode import frame
from services.online.failures import by_consequence
from services.online.keys import feature_field, ord_field, ts_field
from services.online.wire import Endpoint, Wire


@dataclass(frozen=True)
class Read:
    """What to read of one view: `keys` (see keys.entity_keys) and three groups of features."""

    view: str
    keys: Sequence[bytes]
    numeric: tuple[str, ...] = ()
    """Numbers of any type -> columns of `Rows.matrix`."""
    objects: tuple[str, ...] = ()
    """Anything -> Python values as the SDK gives them, in `Rows.objects`; timestamps as integers (seconds)."""
    packed: tuple[tuple[str, int], ...] = ()
    """(feature, D): Array(Float32) of D floats -> `Rows.packed`."""
    ttl_us: int | None = None
    """Microseconds after which a row's values are taken as missing; None (as in the SDK): never."""


@dataclass(frozen=True)
class Rows:
    """The answer to one Read; row i belongs to keys[i]."""

    matrix: NDArray[np.float32]
    """[n, len(numeric)]; NaN = null, absent or expired."""
    objects: Mapping[str, list[Any]]
    """Per feature n values; None = null, absent or expired."""
    packed: Mapping[str, NDArray[np.float32]]
    """Per feature [n, D]; zero rows where `packed_mask` is False."""
    packed_mask: Mapping[str, NDArray[np.bool_]]
    """Per feature [n]: False = null, absent, expired, or a list of another length."""
    present: NDArray[np.bool_]
    """[n]: the view has been written for this entity."""
    expired: NDArray[np.bool_]
    """[n]: present, but older than the ttl."""
    event_us: NDArray[np.int64]
    """[n] event time, microseconds since 1970; 0 where not present."""
    epoch: NDArray[np.uint32]
    seq: NDArray[np.uint64]
    """[n] order of the row; both 0 where not present or written past our store."""


@dataclass(frozen=True)
class _Plan:
    """The parts of HMGET that do not depend on the entity."""

    width: int
    head: bytes
    suffix: bytes


@lru_cache(maxsize=1024)
def _plan(view: str, features: tuple[str, ...]) -> _Plan:
    fields = [*(feature_field(view, name) for name in features), ts_field(view), ord_field(view)]
    head = b"*%d\r\n$5\r\nHMGET\r\n$" % (len(fields) + 2)
    return _Plan(len(fields), head, b"\r\n" + b"".join(map(frame, fields)))


def _features(read: Read) -> tuple[str, ...]:
    return (*read.numeric, *read.objects, *(name for name, _ in read.packed))


def pack(reads: Sequence[Read]) -> tuple[bytes, int]:
    """The reads as RESP, and how many replies they will have."""
    parts: list[bytes] = []
    for read in reads:
        plan = _plan(read.view, _features(read))
        starts = {size: plan.head + b"%d\r\n" % size for size in set(map(len, read.keys))}
        parts += [starts[len(key)] + key + plan.suffix for key in read.keys]
    return b"".join(parts), len(parts)


def unpack(read: Read, replies: Sequence[Any], now_us: int) -> Rows:
    """The replies of one read as arrays; `now_us` (microseconds since 1970) is what the ttl is measured from.

    Raises StoreUnavailable or StoreRefused when a reply is an error, CorruptState when a value is not of the kind
    that was asked for.
    """
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise by_consequence(reply)
    numeric, features = len(read.numeric), _features(read)
    columns: list[Sequence[decode.Cell]] = list(zip(*(reply[numeric:] for reply in replies), strict=True))
    columns = columns or [()] * (len(features) - numeric + 2)
    times, stored_orders = columns[-2:]
    present = np.fromiter((time is not None for time in times), np.bool_, len(times))
    event_us = decode.event_times(times)
    expired = _expired(read, present, event_us, now_us)
    matrix = decode.numbers(list(chain.from_iterable(reply[:numeric] for reply in replies)))
    matrix = matrix.reshape(len(replies), numeric)
    matrix[expired] = np.nan
    epoch, seq = decode.orders(stored_orders)
    others = dict(zip(features[numeric:], columns, strict=False))
    packed, mask = _packed(read, others, expired)
    return Rows(matrix, _objects(read, others, expired), packed, mask, present, expired, event_us, epoch, seq)


def _expired(read: Read, present: NDArray[np.bool_], event_us: NDArray[np.int64], now_us: int) -> NDArray[np.bool_]:
    if read.ttl_us is None:
        return np.zeros(len(present), np.bool_)
    return present & (now_us - event_us > read.ttl_us)


def _objects(
    read: Read, cells: Mapping[str, Sequence[decode.Cell]], expired: NDArray[np.bool_]
) -> dict[str, list[Any]]:
    old = expired.tolist()
    return {
        name: [None if gone else decode.python_value(cell) for cell, gone in zip(cells[name], old, strict=True)]
        for name in read.objects
    }


def _packed(
    read: Read, cells: Mapping[str, Sequence[decode.Cell]], expired: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
    rows: dict[str, NDArray[np.float32]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, dim in read.packed:
        rows[name], masks[name] = decode.float_rows(cells[name], dim)
        rows[name][expired] = 0.0
        masks[name] &= ~expired
    return rows, masks


class MatrixReader:
    """Reads any number of views and entities in one round trip; for one event loop, shared by its tasks."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._wire = Wire(endpoint)

    async def read(self, reads: Sequence[Read], *, timeout_s: float, now_us: int) -> list[Rows]:
        """Answers in the order of the reads.

        Raises ReadTimeout (temporary) after `timeout_s` seconds, StoreUnavailable (temporary) when Redis cannot be
        reached or cannot answer now, StoreRefused and CorruptState (permanent) otherwise.
        """
        commands, expected = pack(reads)
        replies = await self._wire.ask(commands, expected, timeout_s) if expected else []
        answers, start = [], 0
        for read in reads:
            answers.append(unpack(read, replies[start : start + len(read.keys)], now_us))
            start += len(read.keys)
        return answers

    async def close(self) -> None:
        """Closes the connection."""
        await self._wire.close()
