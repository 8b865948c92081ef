"""Random values of every kind, as Feast's protobuf and as plain Python."""

from typing import Any

from feast.protos.feast.types import Value_pb2
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import strategies as st

from services.online.encode import Kind

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_float32 = st.floats(width=32)
_int64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 300))
_SCALARS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.BYTES: st.binary(max_size=12),
    Kind.STRING: _text,
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: _int64,
    Kind.FLOAT64: st.floats(),
    Kind.FLOAT32: _float32,
    Kind.BOOL: st.booleans(),
    Kind.UNIX_TIMESTAMP: st.integers(0, 2**33),
}
_LISTS = {
    Kind.BYTES_LIST: Value_pb2.BytesList,
    Kind.STRING_LIST: Value_pb2.StringList,
    Kind.INT32_LIST: Value_pb2.Int32List,
    Kind.INT64_LIST: Value_pb2.Int64List,
    Kind.FLOAT64_LIST: Value_pb2.DoubleList,
    Kind.FLOAT32_LIST: Value_pb2.FloatList,
    Kind.BOOL_LIST: Value_pb2.BoolList,
    Kind.UNIX_TIMESTAMP_LIST: Value_pb2.Int64List,
}


def of_kind(kind: Kind) -> st.SearchStrategy[Any]:
    """Python values of a kind, nulls left out."""
    return st.lists(_SCALARS[Kind(kind.value - 10)], max_size=5) if kind.is_list else _SCALARS[kind]


def to_proto(kind: Kind, value: Any) -> Value:
    """Feast's protobuf of a Python value; None is null."""
    if value is None:
        return Value()
    field = Value.DESCRIPTOR.fields_by_number[kind.value].name
    return Value(**{field: _LISTS[kind](val=value) if kind.is_list else value})


def same(one: Any, other: Any) -> bool:
    """Equal, NaN equal to NaN, and of the same type."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))
