"""The ranker: what a score depends on, and what it does not."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from services.common.errors import InvalidInput
from services.common.spec import OUTPUT, Arrays, FeatureRef, ModelSpec, zeros
from services.trainer.champion import session
from services.trainer.export import onnx_bytes
from services.trainer.inputs import Block
from services.trainer.models.base import RankingModel, Sizes
from services.trainer.models.din import DeepInterestNetwork
from tests.trainer.world import SPEC

NEW_USER, NEW_ITEM = FeatureRef(77, "new", "user_stats"), FeatureRef(99, "new", "item_stats")


def ranker(spec: ModelSpec = SPEC) -> DeepInterestNetwork:
    """With weights as after some learning: nothing is zero."""
    torch.manual_seed(1)
    made = DeepInterestNetwork(spec, Sizes(hidden=(16, 8)))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.observe(tensors(inputs(spec, 30, 9)))
    return made


def inputs(spec: ModelSpec = SPEC, batch: int = 3, candidates: int = 7) -> Arrays:
    """Random requests; a third of the numbers is missing."""
    chance = np.random.default_rng(2)
    arrays = zeros(spec, batch, candidates)
    for name, array in arrays.items():
        if array.dtype == np.float32:
            array[:] = chance.normal(size=array.shape)
        else:
            array[:] = chance.integers(0, 3, array.shape)
        if name in ("user", "item"):
            array[:] = np.where(chance.random(array.shape) < 0.3, np.nan, array * 100)
        if name.endswith("mask"):
            array[:] = chance.random(array.shape) < 0.7
    arrays["mask"][:] = 1
    return arrays


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def scores(model: RankingModel, arrays: Arrays) -> np.ndarray:  # type: ignore[type-arg]
    with torch.no_grad():
        return model(*(torch.from_numpy(arrays[name]) for name in model.names)).numpy()


def wider(arrays: Arrays, user_at: int, item_at: int) -> Arrays:
    """The same requests with one more feature on each side."""
    return {
        **arrays,
        "user": np.insert(arrays["user"], user_at, 3.5, axis=-1),
        "item": np.insert(arrays["item"], item_at, [[[4.5]]], axis=-1),
    }


@pytest.mark.parametrize(("user_at", "item_at"), [(2, 3), (0, 0), (1, 2)])
def test_new_features_change_no_bit_of_a_score(user_at: int, item_at: int) -> None:
    users, items = list(SPEC.user_features), list(SPEC.item_features)
    users.insert(user_at, NEW_USER)
    items.insert(item_at, NEW_ITEM)
    spec = replace(SPEC, user_features=tuple(users), item_features=tuple(items))
    old = ranker()
    new = old.adapted(spec)
    before, after = session(onnx_bytes(old, SPEC)), session(onnx_bytes(new, spec))
    for batch, candidates in ((1, 1), (3, 7), (2, 33), (1, 128)):
        x = inputs(SPEC, batch, candidates)
        y = wider(x, user_at, item_at)
        np.testing.assert_array_equal(scores(new, y), scores(old, x))
        np.testing.assert_array_equal(after.run([OUTPUT], y)[0], before.run([OUTPUT], x)[0])


def test_a_new_feature_can_be_learned_and_a_dropped_one_is_gone() -> None:
    spec = replace(SPEC, item_features=(*SPEC.item_features[1:], NEW_ITEM))
    new = ranker().adapted(spec)
    assert new.item_numeric.ids == [[11, 12], [99]]
    x = inputs(spec)
    new.logits(tensors(x)).sum().backward()
    assert new.item_numeric.blocks[1].weight.grad is not None
    assert new.item_numeric.blocks[1].weight.grad.any()
    assert scores(new, x).shape == (3, 7, 3)


def test_features_in_another_order_give_the_same_scores() -> None:
    old = ranker()
    new = old.adapted(replace(SPEC, item_features=SPEC.item_features[::-1]))
    x = inputs()
    np.testing.assert_array_equal(scores(new, {**x, "item": x["item"][..., ::-1].copy()}), scores(old, x))


def test_a_missing_number_is_not_a_zero() -> None:
    x, y = inputs(), inputs()
    x["item"][:, :, 0], y["item"][:, :, 0] = np.nan, 0
    assert (scores(ranker(), x) != scores(ranker(), y)).any()
    assert np.isfinite(scores(ranker(), x)).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, -3e38])
def test_no_number_is_too_large(value: float) -> None:
    x = inputs()
    x["item"][:, :, 1], x["user"][:, 0] = value, value
    assert np.isfinite(scores(ranker(), x)).all()


def test_without_its_mask_a_row_is_nothing() -> None:
    x, y = inputs(), inputs()
    for name in ("row", "history_row", "user_row"):
        x[f"{name}_mask"][:], y[f"{name}_mask"][:] = 0, 0
        y[name][:] = 1e3
    np.testing.assert_array_equal(scores(ranker(), x), scores(ranker(), y))


def test_a_score_does_not_depend_on_who_else_is_asked_about() -> None:
    x = inputs(batch=1, candidates=9)
    part = {n: a[:, 2:5] if a.ndim > 1 and a.shape[1] == 9 else a for n, a in x.items()}
    np.testing.assert_allclose(scores(ranker(), part), scores(ranker(), x)[:, 2:5], atol=1e-6)


def test_padding_of_the_history_is_not_read() -> None:
    x, y = inputs(), inputs()
    x["history_mask"][:, 2:], y["history_mask"][:, 2:] = 0, 0
    y["history_content"][:, 2:] = 9
    y["history_kind"][:, 2:] = 5
    np.testing.assert_array_equal(scores(ranker(), x), scores(ranker(), y))


def test_padding_is_scored_zero() -> None:
    x = inputs()
    x["mask"][:, 4:] = 0
    assert not scores(ranker(), x)[:, 4:].any()


def test_the_onnx_file_is_of_the_versions_that_production_reads() -> None:
    graph = onnx.load_from_string(onnx_bytes(ranker(), SPEC))
    assert graph.ir_version <= 9
    assert [o.version for o in graph.opset_import] == [17]


def test_statistics_are_renewed_as_the_values_double_and_not_in_between() -> None:
    block = Block([1], [0], 1)
    seen = []
    for count in range(1, 9):
        block.observe(np.array([[float(count)]], np.float32))
        seen.append(round(float(block.center[0, 0]), 3))
    assert seen == [1.0, 1.5, 1.5, 2.5, 2.5, 2.5, 2.5, 4.5]


def test_a_model_without_features_is_refused() -> None:
    with pytest.raises(InvalidInput, match="feature"):
        DeepInterestNetwork(replace(SPEC, user_features=()), Sizes())
