"""Keys and fields equal Feast's own, byte for byte."""

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidInput
from services.online.keys import (
    KeyEncoder,
    Order,
    entity_key,
    entity_keys,
    feature_field,
    pack_order,
    project_of,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ids = st.one_of(text, st.integers(-(2**63), 2**63 - 1))
join_keys = st.lists(text, min_size=1, max_size=3, unique=True)


def feast_key(project: str, names: list[str], values: list[str | int]) -> bytes:
    protos = [Value(string_val=v) if isinstance(v, str) else Value(int64_val=v) for v in values]
    key = EntityKey(join_keys=names, entity_values=protos)
    return serialize_entity_key(key, entity_key_serialization_version=3) + project.encode()


@given(text, join_keys, st.data())
def test_an_entity_key_equals_feasts(project: str, names: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(ids, min_size=len(names), max_size=len(names)))
    assert entity_key(project, tuple(names), tuple(values)) == feast_key(project, names, values)


def test_a_batch_of_keys_equals_single_ones() -> None:
    users, categories = [3, 4], ["b", "ä"]
    made = entity_keys("shop", ("user_id", "category"), users, categories)
    assert made == [feast_key("shop", ["user_id", "category"], [u, c]) for u, c in zip(users, categories, strict=True)]


@given(text, text)
def test_a_feature_field_equals_feasts(view: str, feature: str) -> None:
    assert feature_field(view, feature) == _mmh3(f"{view}:{feature}")


@given(text, join_keys, st.data())
def test_the_project_of_a_key_is_found(project: str, names: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(ids, min_size=len(names), max_size=len(names)))
    assert project_of(entity_key(project, tuple(names), tuple(values))) == project


def test_other_keys_have_no_project() -> None:
    assert project_of(b"freshrank:shop:epoch:stats") is None


orders = st.builds(Order, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(orders, orders)
def test_packed_orders_compare_like_orders(one: Order, other: Order) -> None:
    assert (pack_order(one) < pack_order(other)) == (one < other)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.5, id="float"),
        pytest.param(True, id="bool"),
        pytest.param(None, id="none"),
        pytest.param(2**63, id="too large"),
    ],
)
def test_a_join_key_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        KeyEncoder("shop", ["user_id"]).one([value])  # type: ignore[list-item]


@pytest.mark.parametrize("order", [Order(2**32, 0), Order(0, 2**64), Order(-1, 0)])
def test_an_order_that_does_not_fit_is_refused(order: Order) -> None:
    with pytest.raises(InvalidInput, match="order"):
        pack_order(order)
