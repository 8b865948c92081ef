"""Impressions become model inputs."""

import time
from collections.abc import Sequence

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Context, HistoryItem, Impression, ImpressionItem
from numpy.typing import NDArray

from services.common import spec as specs
from services.common.content import content_vector
from services.common.encode import NoRows, encode, layout_of
from services.common.spec import FeatureRef, ModelSpec

SPEC = ModelSpec(
    user_features=(FeatureRef(1, "u:one", "u"), FeatureRef(2, "u:two", "u")),
    item_features=(FeatureRef(10, "i:a", "i"), FeatureRef(11, "i:b", "i"), FeatureRef(12, "i:new", "i")),
    row_dim=4,
    history_length=3,
)


class NamedRows:
    """Rows of a few ids; the first value says which."""

    def __init__(self, items: dict[str, float], users: dict[str, float]) -> None:
        self._items, self._users = items, users

    def items(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._find(self._items, ids)

    def users(self, ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._find(self._users, ids)

    def _find(self, known: dict[str, float], ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = np.array([[known.get(i, 0.0)] * 4 for i in ids], np.float32).reshape(-1, 4)
        return rows, np.array([i in known for i in ids], np.float32)


def impression(user: str = "ann", items: int = 2, history: int = 2) -> Impression:
    return Impression(
        user_id=user,
        time_us=10_000_000,
        context=Context(region="DE", device="phone"),
        user_feature_ids=[2, 9],
        user_features=[0.5, 7.0],
        item_feature_ids=[11, 10],
        items=[ImpressionItem(item_id=f"i{k}", features=[float(k), np.nan], content=[k, 99]) for k in range(items)],
        history=[HistoryItem(item_id=f"h{k}", kind=1, time_us=9_000_000, content=[k]) for k in range(history)],
    )


def test_names_shapes_and_types_are_those_of_the_spec() -> None:
    arrays = encode([impression(items=2), impression(items=5)], SPEC, NoRows(4))
    for name, (shape, dtype) in specs.input_shapes(SPEC).items():
        assert arrays[name].shape == tuple({"B": 2, "N": 5}.get(s, s) for s in shape), name
        assert arrays[name].dtype == dtype, name
    assert arrays.keys() == specs.input_shapes(SPEC).keys()


def test_features_are_found_by_id_and_absent_ones_are_nan() -> None:
    arrays = encode([impression()], SPEC, NoRows(4))
    np.testing.assert_array_equal(arrays["user"], np.array([[np.nan, 0.5]], np.float32))
    expected = np.array([[[np.nan, 0, np.nan], [np.nan, 1, np.nan]]], np.float32)
    np.testing.assert_array_equal(arrays["item"], expected)


def test_an_item_with_values_of_another_length_counts_as_absent() -> None:
    broken = impression()
    broken.items[1].features.append(3.0)
    arrays = encode([broken], SPEC, NoRows(4))
    assert arrays["item"][0, 0, 1] == 0
    assert np.isnan(arrays["item"][0, 1]).all()


def test_content_history_and_context_are_the_shared_functions() -> None:
    arrays = encode([impression(history=5)], SPEC, NoRows(4))
    np.testing.assert_array_equal(arrays["content"][0, 1], content_vector([1, 99]))
    np.testing.assert_array_equal(arrays["history_content"][0, 2], content_vector([2]))
    np.testing.assert_allclose(arrays["history_age"][0], specs.history_age(10_000_000, 9_000_000), rtol=1e-6)
    assert arrays["history_mask"].tolist() == [[1, 1, 1]]
    assert tuple(arrays["context"][0]) == specs.context_ids("DE", "phone", "")


def test_rows_stand_beside_their_masks() -> None:
    rows = NamedRows({"i1": 5.0, "h0": 6.0}, {"bob": 7.0})
    arrays = encode([impression("ann"), impression("bob", items=1, history=1)], SPEC, rows)
    assert arrays["row_mask"][:, :, 0].tolist() == [[0, 1], [0, 0]]
    assert arrays["row"][0, 1].tolist() == [5.0] * 4
    assert arrays["history_row_mask"][:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert arrays["user_row_mask"].tolist() == [[0], [1]]
    assert arrays["mask"].tolist() == [[1, 1], [1, 0]]


def test_chosen_items_keep_their_order() -> None:
    layout = layout_of([impression(items=4), impression(items=1)], SPEC, [[3, 1], [0]])
    assert layout.item_ids == ["i3", "i1", "i0"]
    assert layout.items_at[0].tolist() == [0, 0, 1]
    assert layout.items_at[1].tolist() == [0, 1, 0]
    with pytest.raises(IndexError):
        encode([impression(items=1)], SPEC, NoRows(4), [[1]])


def test_no_impressions_give_empty_arrays() -> None:
    assert encode([], SPEC, NoRows(4))["item"].shape == (0, 0, 3)


def test_it_keeps_up_with_twenty_thousand_items_a_second() -> None:
    refs = tuple(FeatureRef(k, str(k), "v") for k in range(30))
    wide = ModelSpec(user_features=refs, item_features=refs)
    one = impression(items=50, history=20)
    del one.item_feature_ids[:]
    one.item_feature_ids.extend(range(30))
    for item in one.items:
        del item.features[:]
        item.features.extend([1.0] * 30)
        item.content.extend(range(8))
    batch = [one] * 20
    start = time.perf_counter()
    encode(batch, wide, NoRows(16))
    assert 1000 / (time.perf_counter() - start) > 5_000  # a quarter of the goal, so that a busy machine passes
