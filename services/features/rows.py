"""Messages as one table of rows to aggregate: an event is a row, an impression is a row for each shown item.

Columns are decoded when a filter or a function first asks for them, once for all views.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common import filters, ids
from services.common.filters import COLUMNS, Mask
from services.common.records import BOT, DWELL, FORGET, IMPRESSION, LATE, TICK

Ints = NDArray[np.int64]

MAX_PLACES = 1024
"""Rows that one record can become; places within a record are numbered below it."""


class Rows:
    """Rows of one batch, in log order. `time_us`, `received_us`: [length]; `high`, `low`: their place in the log,
    which breaks ties of time: (source partition and offset, index and place in the record)."""

    def __init__(self, table: pa.Table, source: Ints, place: Ints, exploded: Mapping[str, pa.Array] | None) -> None:
        self._table, self._source, self._place = table, source, place
        self._exploded = exploded or {}
        self.length = len(source)
        self.time_us = self._whole("time_us")
        self.received_us = self._whole("received_us")
        partition = self._whole("src_partition") if "src_partition" in table.column_names else 0
        self.high = (partition << 48) | self._whole("src_offset")
        self.low = self._whole("src_index") * MAX_PLACES + place
        self._texts: dict[str, tuple[NDArray[np.int32], list[str]]] = {}
        self._numbers: dict[str, tuple[NDArray[Any], Mask]] = {}
        self._hashes: dict[str, NDArray[np.uint64]] = {}
        self._masks: dict[tuple[str, ...], Mask] = {}
        self._passing: dict[tuple[tuple[str, ...], str], Mask] = {}

    @property
    def source(self) -> Ints:
        """Row of the table that each row came from."""
        return self._source

    @property
    def place(self) -> Ints:
        """Place of the shown item within its impression; 0 for events."""
        return self._place

    def where(self, mask: Mask) -> "Rows":
        """Some of the rows, which are single already."""
        return Rows(self._table, self._source[mask], self._place[mask], None)

    def _whole(self, name: str) -> Ints:
        return to_numpy(self._table.column(name))[self._source].astype(np.int64, copy=False)

    def number(self, name: str) -> tuple[NDArray[Any], Mask]:
        """Values of a column that is not text, and where there is one."""
        if name not in self._numbers:
            self._numbers[name] = self._number(name)
        return self._numbers[name]

    def _number(self, name: str) -> tuple[NDArray[Any], Mask]:
        if name == "examined":
            return self._examined()
        column = self._table.column("play_seconds" if name == "dwell_seconds" else name)
        valid = ~to_numpy(column.is_null())[self._source] if column.null_count else np.ones(self.length, np.bool_)
        values = to_numpy(column.fill_null(0) if column.null_count else column)[self._source]
        if name in ("dwell_seconds", "play_seconds"):  # one column of the log: a kind of row has one of them
            valid &= (self._whole("kind") == DWELL) == (name == "dwell_seconds")
        return values, valid

    def _examined(self) -> tuple[NDArray[Any], Mask]:
        place = self._whole("src_index") % MAX_PLACES if "src_partition" in self._table.column_names else self._place
        return (1 / (1 + place)).astype(np.float32), self._whole("kind") == IMPRESSION

    def text(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        """Codes of a text column, -1 where there is none (empty text is none), and its words."""
        if name not in self._texts:
            self._texts[name] = self._encoded(name)
        return self._texts[name]

    def _encoded(self, name: str) -> tuple[NDArray[np.int32], list[str]]:
        array: pa.Array = self._table.column(name).combine_chunks()
        at = self._source
        if name in self._exploded:
            shown = self._exploded[name]
            array, at = pa.concat_arrays([array, shown]), self._shown_at(len(array))
        coded = array.dictionary_encode()
        codes = to_numpy(coded.indices.fill_null(-1))[at]
        words = coded.dictionary.to_pylist()
        if "" in words:
            codes = np.where(codes == words.index(""), np.int32(-1), codes)
        return codes.astype(np.int32, copy=False), words

    def _shown_at(self, rows: int) -> Ints:
        shown = to_numpy(self._table.column("kind"))[self._source] == IMPRESSION
        return np.where(shown, rows + np.cumsum(shown) - 1, self._source)

    def valid(self, name: str) -> Mask:
        """Where a column has a value."""
        return self.text(name)[0] >= 0 if COLUMNS[name] == "text" else self.number(name)[1]

    def passing(self, tests: tuple[str, ...], column: str) -> Mask:
        """Rows that pass all tests and have a value in the column."""
        key = (tests, column)
        if key not in self._passing:
            mask = self.mask(tests)
            self._passing[key] = mask if COLUMNS[column] in ("kind", "time") else mask & self.valid(column)
        return self._passing[key]

    def hashes(self, name: str) -> NDArray[np.uint64]:
        """A 64-bit number for each value, the same in every process; 0 where there is none."""
        if name not in self._hashes:
            if COLUMNS[name] == "text":
                codes, words = self.text(name)
                table = np.append(ids.keys_of(words), np.uint64(0))
                self._hashes[name] = table[codes]
            else:
                values, _ = self.number(name)
                self._hashes[name] = values.astype(np.float64).view(np.uint64)
        return self._hashes[name]

    def mask(self, tests: tuple[str, ...]) -> Mask:
        """Rows that pass all these filters (canonical texts; "" passes all) - worked out once each."""
        if tests not in self._masks:
            if len(tests) > 1:
                self._masks[tests] = np.logical_and.reduce([self.mask((test,)) for test in tests])
            elif tests[0]:
                self._masks[tests] = filters.mask(filters.parse(tests[0]), self)
            else:
                self._masks[tests] = np.ones(self.length, np.bool_)
        return self._masks[tests]


Batches = Sequence[tuple[int, pa.RecordBatch]]
"""Offset and rows of each message."""


def joined(batches: Batches, schema: pa.Schema) -> tuple[pa.Table, Ints, Ints]:
    """The rows of some messages as one table, and of each row the offset of its message and the place in it."""
    lengths = np.array([batch.num_rows for _, batch in batches], np.int64)
    offset = np.repeat(np.array([at for at, _ in batches], np.int64), lengths)
    index = np.arange(len(offset)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = pa.Table.from_batches([batch for _, batch in batches], schema)
    return table.combine_chunks(), offset, index


def to_numpy(column: Any) -> NDArray[Any]:
    """An Arrow column without nulls as numpy, without copying where it can be."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.to_numpy(zero_copy_only=False))


def counted(table: pa.Table, fresh: Mask) -> tuple[Mask, dict[str, int]]:
    """Rows of a table that are aggregated, and how many were left out and why."""
    kind, verdict = to_numpy(table.column("kind")), to_numpy(table.column("verdict").fill_null(0))
    event = (kind != TICK) & (kind != FORGET)
    late, bot = event & fresh & (verdict & LATE > 0), event & fresh & (verdict & BOT > 0)
    out = {"late": int(late.sum()), "bot": int((bot & ~late).sum()), "duplicate": int((event & ~fresh).sum())}
    return event & fresh & ~late & ~bot, out


def user_rows(table: pa.Table, keep: Mask) -> Rows:
    """Rows of a table of `records.INTERACTIONS`: impressions become a row for each shown item."""
    shown = keep & (to_numpy(table.column("kind")) == IMPRESSION)
    items, categories = table.column("impression_items"), table.column("impression_categories")
    if not shown.any():
        source = np.flatnonzero(keep)
        return Rows(table, source, np.zeros(len(source), np.int64), None)
    lists, named = items.combine_chunks(), categories.combine_chunks()
    lengths = np.minimum(to_numpy(lists.value_lengths().fill_null(0)), MAX_PLACES).astype(np.int64)
    repeats = np.where(shown, lengths, keep.astype(np.int64))
    source = np.repeat(np.arange(len(keep)), repeats)
    place = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    chosen = np.flatnonzero(shown)
    return Rows(
        table, source, place, {"item": _flat(lists, chosen, lengths), "category": _flat(named, chosen, lengths)}
    )


def _flat(lists: pa.ListArray, chosen: Ints, lengths: Ints) -> pa.Array:
    """`lengths[i]` values of each chosen list, end to end; null where a list is shorter."""
    offsets = to_numpy(lists.offsets).astype(np.int64)
    want = lengths[chosen]
    place = np.arange(int(want.sum())) - np.repeat(np.cumsum(want) - want, want)
    at = np.repeat(offsets[chosen], want) + place
    inside = at < np.repeat(offsets[chosen + 1], want)
    return lists.values.take(pa.array(at, mask=~inside))


def item_rows(table: pa.Table, keep: Mask) -> Rows:
    """Rows of a table of `records.ITEM_INTERACTIONS`, which are single already."""
    source = np.flatnonzero(keep)
    return Rows(table, source, np.zeros(len(source), np.int64), None)


def at_home(keys: Any, partition: int, partitions: int) -> Mask:
    """Rows whose key, a column of texts, belongs to a partition; nobody's belong to none.

    >>> at_home(pa.chunked_array([["user-1", None]]), 0, 1).tolist()
    [True, False]
    """
    coded = keys.combine_chunks().dictionary_encode()
    words = coded.dictionary.to_pylist()
    home = [bool(word) and ids.partition_of(word, partitions) == partition for word in words]
    found: Mask = np.array([*home, False], np.bool_)
    return np.asarray(found[to_numpy(coded.indices.fill_null(-1))])


def unseen(position: Ints, applied: int) -> Mask:
    """Rows that are new: their position is above every earlier one and above `applied`.

    >>> unseen(np.array([4, 5, 5, 7, 6]), 4).tolist()
    [False, True, False, True, False]
    """
    before = np.maximum.accumulate(np.concatenate([[applied], position[:-1]])) if len(position) else position
    return np.asarray(position > before)


def packed(offset: Ints, index: Ints) -> Ints:
    """A position as one number that grows with it: offset, then index."""
    return (offset << 31) | index
