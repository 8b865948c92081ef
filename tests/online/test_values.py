"""Values are serialized as protobuf does it, and read back."""

import math
from typing import Any

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import CorruptState, InvalidInput
from services.online import decode
from services.online.encode import Column, Kind, encode_column, encode_timestamps, frame
from tests.online.values import of_kind, same, to_proto

NUMERIC = [Kind.FLOAT32, Kind.FLOAT64, Kind.INT32, Kind.INT64, Kind.BOOL, Kind.UNIX_TIMESTAMP]
kinds = st.sampled_from(list(Kind))


def serialized(kind: Kind, values: list[Any]) -> list[bytes]:
    return [to_proto(kind, value).SerializeToString() for value in values]


@given(kinds, st.data())
def test_a_column_is_serialized_as_protobuf_does_it(kind: Kind, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | of_kind(kind), max_size=8))
    cells = encode_column("f", kind, Column(values), len(values))
    assert cells == [frame(cell) for cell in serialized(kind, values)]


@pytest.mark.parametrize(("kind", "dtype"), [*zip(NUMERIC, ["f4", "f8", "i4", "i8", "?", "i8"], strict=True)])
def test_an_array_is_serialized_like_a_list_and_its_mask_makes_nulls(kind: Kind, dtype: str) -> None:
    array, nulls = np.arange(0, 600, 2).astype(dtype), np.arange(300) % 7 == 0
    expected = [None if null else value for value, null in zip(array.tolist(), nulls.tolist(), strict=True)]
    cells = encode_column("f", kind, Column(array, nulls), 300)
    assert cells == [frame(cell) for cell in serialized(kind, expected)]


@pytest.mark.parametrize("values", [["a", None], np.array(["a", None], object), np.array(["a", "b"])])
def test_text_may_come_as_a_list_or_an_array(values: Any) -> None:
    cells = encode_column("f", Kind.STRING, Column(values, np.array([False, True])), 2)
    assert cells == [frame(cell) for cell in serialized(Kind.STRING, ["a", None])]


def test_a_matrix_may_have_null_rows() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    cells = encode_column("f", Kind.FLOAT32_LIST, Column(matrix, np.array([False, True, False])), 3)
    assert cells == [frame(cell) for cell in serialized(Kind.FLOAT32_LIST, [[0.0, 1.0], None, [4.0, 5.0]])]


@pytest.mark.parametrize("dim", [1, 16, 32, 200])
def test_a_matrix_is_serialized_as_lists_of_floats(dim: int) -> None:
    matrix = np.arange(3 * dim, dtype=np.float32).reshape(3, dim)
    cells = encode_column("f", Kind.FLOAT32_LIST, Column(matrix), 3)
    assert cells == [frame(cell) for cell in serialized(Kind.FLOAT32_LIST, matrix.tolist())]


@given(kinds, st.data())
def test_a_value_is_read_back_as_python_gives_it(kind: Kind, data: st.DataObject) -> None:
    value = data.draw(st.none() | of_kind(kind))
    assert same(decode.python_value(to_proto(kind, value).SerializeToString()), value)


@given(st.data())
def test_numbers_of_mixed_types_nulls_and_absent_ones_become_float32(data: st.DataObject) -> None:
    pairs = data.draw(
        st.lists(st.none() | st.sampled_from(NUMERIC).flatmap(lambda k: st.tuples(st.just(k), st.none() | of_kind(k))))
    )
    cells = [None if pair is None else to_proto(*pair).SerializeToString() for pair in pairs]
    with np.errstate(over="ignore"):
        expected = [math.nan if pair is None or pair[1] is None else np.float32(pair[1]) for pair in pairs]
    np.testing.assert_array_equal(decode.numbers(cells), np.array(expected, np.float32))


@given(st.lists(st.none() | st.floats(width=32)))
def test_floats_keep_every_bit(values: list[float | None]) -> None:
    cells = [None if value is None else to_proto(Kind.FLOAT32, value).SerializeToString() for value in values]
    expected = np.array([math.nan if value is None else value for value in values], np.float32)
    assert decode.numbers(cells).view(np.uint32).tolist() == expected.view(np.uint32).tolist()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(Value(string_val="55555"), id="text"),
        pytest.param(to_proto(Kind.FLOAT32_LIST, [1.0]), id="list"),
        pytest.param(to_proto(Kind.FLOAT32_LIST, []), id="empty list"),
    ],
)
def test_what_is_not_a_number_is_refused(value: Value) -> None:
    with pytest.raises(CorruptState, match="not one number"):
        decode.numbers([value.SerializeToString(), Value(float_val=1.0).SerializeToString()])


@pytest.mark.parametrize("cell", [b"\x35\x00", b"\x29\x00", b"\x12\x05ab", b"\x20\xff", b"\xd2\x01\x00", b"\x20"])
def test_damaged_bytes_are_refused(cell: bytes) -> None:
    with pytest.raises(CorruptState):
        decode.python_value(cell)


@given(st.integers(1, 40), st.data())
def test_packed_rows_are_read_and_others_are_masked(dim: int, data: st.DataObject) -> None:
    row = st.lists(st.floats(width=32, allow_nan=False), min_size=dim, max_size=dim)
    rows = data.draw(st.lists(st.sampled_from([None, [], [1.0] * (dim + 1)]) | row, max_size=6))
    cells = [None if r is None else to_proto(Kind.FLOAT32_LIST, r).SerializeToString() for r in rows]
    matrix, mask = decode.float_rows(cells, dim)
    assert mask.tolist() == [r is not None and len(r) == dim for r in rows]
    assert matrix.tolist() == [r if ok else [0.0] * dim for r, ok in zip(rows, mask.tolist(), strict=True)]


def test_a_packed_row_of_another_type_is_refused() -> None:
    with pytest.raises(CorruptState, match="not a list of floats"):
        decode.float_rows([to_proto(Kind.STRING, "abc").SerializeToString()], 2)


event_times = st.none() | st.integers(0, 2**35 * 1_000_000) | st.integers(1_700_000_000_000_000, 2**51)


@given(st.lists(event_times, max_size=40))
def test_event_times_are_read_as_protobuf_writes_them(times: list[int | None]) -> None:
    cells = [None if t is None else _timestamp(t).SerializeToString() for t in times]
    assert decode.event_times(cells).tolist() == [t or 0 for t in times]
    assert decode.event_times(cells * 40).tolist() == [t or 0 for t in times] * 40


@given(st.lists(st.integers(0, 2**35 * 1_000_000), max_size=20))
def test_event_times_are_written_as_protobuf_writes_them(times: list[int]) -> None:
    assert encode_timestamps(np.array(times, np.int64)) == [frame(_timestamp(t).SerializeToString()) for t in times]


def test_event_times_before_1970_are_read() -> None:
    cell = Timestamp(seconds=-5, nanos=1000).SerializeToString()
    assert decode.event_times([cell] * 40).tolist() == [-4_999_999] * 40


def _timestamp(micros: int) -> Timestamp:
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        pytest.param(Kind.FLOAT32, ["1"], id="text for a float"),
        pytest.param(Kind.INT64, [1.5], id="float for an integer"),
        pytest.param(Kind.INT32, [2**31], id="too large"),
        pytest.param(Kind.BOOL, [1], id="integer for a truth value"),
        pytest.param(Kind.STRING, [b"x"], id="bytes for text"),
        pytest.param(Kind.BYTES, ["x"], id="text for bytes"),
        pytest.param(Kind.STRING_LIST, ["abc"], id="text for a list of text"),
        pytest.param(Kind.FLOAT32_LIST, [[[1.0]]], id="list of lists"),
        pytest.param(Kind.FLOAT32_LIST, [1.0], id="float for a list"),
        pytest.param(Kind.STRING, ["a", "b"], id="too many rows"),
    ],
)
def test_a_value_that_does_not_fit_names_its_feature(kind: Kind, values: list[Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        encode_column("clicks", kind, Column(values), 1)
    assert caught.value.field == "clicks"
