"""Writes columns of features into Feast's online store, ordered by (epoch, seq): `MatrixWriter`.

One EVALSHA carries many entities; packing is shared by the synchronous and the asyncio flavour. Nothing here is
pandas, and nothing is a protobuf object.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import redis
import redis.asyncio
from numpy.typing import NDArray
from redis.exceptions import NoScriptError

from services.common.errors import InvalidInput
from services.online import scripts
from services.online.encode import Column, Kind, encode_column, encode_timestamps, frame, frame_fixed
from services.online.failures import reported
from services.online.keys import (
    Id,
    KeyEncoder,
    epoch_key,
    feature_field,
    ord_field,
    pack_orders,
    ts_field,
)

CHUNK_ROWS = 128
"""Entities per script call: Redis serves nobody else while one runs (about 1 ms for 20 features)."""

WINDOW = 8
"""Script calls on their way at a time: Redis works while the next ones are packed, and buffers stay small."""

Chunk = tuple[int, bytes]
"""Rows, and the packed command that writes them."""


@dataclass(frozen=True)
class WriteResult:
    """What became of a batch."""

    written: int
    """Rows stored; a row equal in order to the stored one is stored again."""
    dropped: int
    """Rows older than what is stored."""
    fenced: bool
    """True when rows were dropped because the view's epoch has been raised above the batch's."""
    epoch_missing: bool
    """True when the view has no epoch key: Redis lost its data, or the view was never opened."""


@dataclass(frozen=True)
class Batch:
    """Rows of one view, by column.

    `entities`: one column of values per join key; `columns`: per feature; `event_us`: [n] microseconds since 1970,
    only a value; `seqs`: [n], the order within `epoch`.
    """

    entities: Sequence[Sequence[Id]]
    columns: Mapping[str, Column]
    event_us: NDArray[np.int64]
    epoch: int
    seqs: NDArray[np.uint64]


class Packer:
    """Turns the batches of one view into ready Redis commands."""

    def __init__(
        self,
        project: str,
        view: str,
        join_keys: Sequence[str],
        features: Mapping[str, Kind],
        *,
        chunk_rows: int = CHUNK_ROWS,
        key_ttl_s: int = 0,
        rule: bytes = scripts.FENCE,
    ) -> None:
        if chunk_rows < 1:
            raise InvalidInput("chunk_rows", "out_of_range", "must be at least 1")
        self.view, self.features = view, dict(features)
        self._keys = KeyEncoder(project, join_keys)
        self._epoch_key = frame(epoch_key(project, view))
        self._chunk_rows, self._rule, self._ttl = chunk_rows, rule, key_ttl_s
        self._sha = frame(scripts.WRITE.sha.encode())

    def commands(self, batch: Batch) -> Iterator[Chunk]:
        """Yields (rows, packed EVALSHA) for each chunk.

        Raises InvalidInput at once, before the first chunk is taken, when a column, key or order does not fit.
        """
        keys = self._keys.batch(*batch.entities)
        rows, event_us = len(keys), batch.event_us
        if len(event_us) != rows or len(batch.seqs) != rows:
            raise InvalidInput("seqs", "invalid", f"{len(event_us)} times and {len(batch.seqs)} seqs for {rows} rows")
        unknown = [name for name in batch.columns if name not in self.features]
        if unknown:
            raise InvalidInput(unknown[0], "unknown", f"not a feature of {self.view}")
        cells = [encode_column(name, self.features[name], c, rows) for name, c in batch.columns.items()]
        orders = pack_orders(batch.epoch, batch.seqs)
        return self.frames(keys, tuple(batch.columns), cells, encode_timestamps(event_us), orders)

    def frames(
        self,
        keys: Sequence[bytes],
        names: Sequence[str],
        cells: Sequence[list[bytes]],
        times: list[bytes],
        orders: NDArray[np.uint8],
    ) -> Iterator[Chunk]:
        """Like `commands`, for cells and event times that are framed already; `orders` is [n, 12] bytes."""
        columns = [frame_fixed(orders), *cells, times]
        head = self._head(names, int.from_bytes(orders[0, :4].tobytes()) if len(orders) else 0)
        framed = [frame(key) for key in keys]
        for start in range(0, len(keys), self._chunk_rows):
            part = slice(start, start + self._chunk_rows)
            yield self._command(head, framed[part], [column[part] for column in columns])

    def _head(self, names: Sequence[str], epoch: int) -> bytes:
        fields = [ord_field(self.view), *(feature_field(self.view, n) for n in names), ts_field(self.view)]
        numbers = (b"%d" % epoch, b"%d" % self._ttl, b"%d" % len(fields))
        return b"".join(map(frame, (self._rule, *numbers, *fields)))

    def _command(self, head: bytes, keys: list[bytes], cells: list[list[bytes]]) -> Chunk:
        rows, width = len(keys), len(cells)
        count = 8 + rows + width + rows * width  # EVALSHA sha numkeys epoch-key, rule epoch ttl width
        start = b"*%d\r\n$7\r\nEVALSHA\r\n" % count + self._sha + frame(b"%d" % (rows + 1)) + self._epoch_key
        values = chain.from_iterable(zip(*cells, strict=True))
        return rows, b"".join([start, *keys, head, *values])


class _Tally:
    """Adds up the replies of a batch's chunks."""

    def __init__(self, epoch: int) -> None:
        self._epoch, self._rows, self._written = epoch, 0, 0
        self._fenced = self._missing = False

    def add(self, rows: int, reply: Sequence[int]) -> None:
        written, stored_epoch = reply
        self._rows += rows
        self._written += written
        self._fenced |= stored_epoch > self._epoch
        self._missing |= stored_epoch < 0

    def result(self) -> WriteResult:
        return WriteResult(self._written, self._rows - self._written, self._fenced, self._missing)


class _Flight:
    """Chunks that were sent and not answered yet, in order."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally
        self._chunks: deque[Chunk] = deque()
        self.unknown: list[Chunk] = []
        """Chunks that Redis refused because it does not have the script."""

    def sent(self, chunk: Chunk) -> bool:
        """Notes a chunk; True when an answer must be read before the next one is sent."""
        self._chunks.append(chunk)
        return len(self._chunks) >= WINDOW

    def answered(self, reply: Any) -> None:
        """Takes the answer to the oldest chunk."""
        chunk = self._chunks.popleft()
        if isinstance(reply, NoScriptError):
            self.unknown.append(chunk)
        elif isinstance(reply, Exception):
            raise reply
        else:
            self._tally.add(chunk[0], reply)

    def __len__(self) -> int:
        return len(self._chunks)


class MatrixWriter:
    """Writes batches of one view with a blocking client (publisher, tools)."""

    def __init__(self, client: redis.Redis, packer: Packer) -> None:
        self._client, self._packer = client, packer

    def write(self, batch: Batch) -> WriteResult:
        """Stores the rows that are not older than what is stored.

        Raises InvalidInput before anything is sent, TemporaryError when Redis failed: then some chunks may be
        stored, and the same batch can be written again.
        """
        return self.send(batch.epoch, self._packer.commands(batch))

    def send(self, epoch: int, commands: Iterable[Chunk]) -> WriteResult:
        """Sends chunks while the next ones are packed, and loads the script where Redis does not have it."""
        tally = _Tally(epoch)
        with reported():
            if unknown := self._stream(commands, tally):
                self._client.script_load(scripts.WRITE.source)
                if self._stream(unknown, tally):
                    raise NoScriptError("NOSCRIPT right after loading it")
        return tally.result()

    def _stream(self, commands: Iterable[Chunk], tally: _Tally) -> list[Chunk]:
        pool: Any = self._client.connection_pool
        connection, flight = pool.get_connection(), _Flight(tally)
        try:
            for chunk in commands:
                connection.send_packed_command([chunk[1]])
                if flight.sent(chunk):
                    flight.answered(_read(connection))
            while len(flight):
                flight.answered(_read(connection))
        except BaseException:
            connection.disconnect()  # replies are left unread: the connection is out of step
            raise
        finally:
            pool.release(connection)
        return flight.unknown


class AsyncMatrixWriter:
    """Writes batches of one view from asyncio (features)."""

    def __init__(self, client: redis.asyncio.Redis, packer: Packer) -> None:
        self._client, self._packer = client, packer

    async def write(self, batch: Batch) -> WriteResult:
        """Like `MatrixWriter.write`."""
        return await self.send(batch.epoch, self._packer.commands(batch))

    async def send(self, epoch: int, commands: Iterable[Chunk]) -> WriteResult:
        """Like `MatrixWriter.send`."""
        tally = _Tally(epoch)
        with reported():
            if unknown := await self._stream(commands, tally):
                await self._client.script_load(scripts.WRITE.source)
                if await self._stream(unknown, tally):
                    raise NoScriptError("NOSCRIPT right after loading it")
        return tally.result()

    async def _stream(self, commands: Iterable[Chunk], tally: _Tally) -> list[Chunk]:
        pool: Any = self._client.connection_pool
        connection, flight = await pool.get_connection(), _Flight(tally)
        try:
            for chunk in commands:
                await connection.send_packed_command([chunk[1]])
                if flight.sent(chunk):
                    flight.answered(await _read_async(connection))
            while len(flight):
                flight.answered(await _read_async(connection))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return flight.unknown


def _read(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:  # an answer like any other: the replies after it must be read too
        return error


async def _read_async(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error
