"""Ways of compression: what defines each, on the trainer's own graph."""

from functools import lru_cache

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from services.common.encode import Floats, NoRows
from services.common.errors import CorruptState, InvalidInput
from services.common.settings import load_settings
from services.common.spec import Arrays, zeros
from services.publisher import onnx_file
from services.publisher.compression.attempt import compressed
from services.publisher.compression.graph import Graph
from services.publisher.compression.low_rank import factors
from services.publisher.compression.plan import parse
from services.publisher.compression.rows import Coded, Int8Rows, half, int8, through_int8
from services.publisher.onnx_file import FileBounds, OnnxModel
from services.publisher.settings import PublisherSettings
from services.trainer.export import onnx_bytes
from services.trainer.models.base import Sizes
from services.trainer.models.din import DeepInterestNetwork
from tests.trainer.world import SPEC


def ranker(hidden: tuple[int, int] = (16, 8)) -> DeepInterestNetwork:
    """With weights as after some learning: nothing is zero."""
    torch.manual_seed(1)
    made = DeepInterestNetwork(SPEC, Sizes(hidden=hidden))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@lru_cache
def exported() -> bytes:
    """Its file."""
    return onnx_bytes(ranker(), SPEC)


def requests(batch: int = 8, candidates: int = 32) -> Arrays:
    """Random ones; a third of the numbers is missing."""
    chance, made = np.random.default_rng(2), zeros(SPEC, batch, candidates)
    for name, array in made.items():
        drawn = chance.normal(size=array.shape) if array.dtype == np.float32 else chance.integers(0, 3, array.shape)
        array[:] = chance.random(array.shape) < 0.7 if name.endswith("mask") else drawn
    for name in ("user", "item"):
        made[name][chance.random(made[name].shape) < 0.3] = np.nan
    return made


def after(plan: str, data: bytes | None = None) -> bytes:
    return compressed(data or exported(), parse(plan), requests())


def scores(data: bytes, asked: Arrays | None = None) -> Floats:
    return OnnxModel(data).run(asked or requests())


def weights(data: bytes) -> dict[str, Floats]:
    graph = Graph(onnx.load_model_from_string(data))
    return {name: np.asarray(graph.array(name), np.float32) for name in graph.weights()}


def flat(data: bytes) -> Floats:
    return np.concatenate([array.ravel() for array in weights(data).values()])


def linear(weight: Floats) -> bytes:
    """A graph that multiplies `x` [n, m] by a matrix."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_pruning_leaves_exactly_the_asked_share_of_zeros_and_the_largest_weights(share: float) -> None:
    before, pruned = flat(exported()), flat(after(f"prune({share})"))
    gone = pruned == 0
    assert gone.sum() == int(share * len(before))
    np.testing.assert_array_equal(pruned[~gone], before[~gone])
    assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()


def test_pruning_changes_neither_tables_nor_biases() -> None:
    before, pruned = (onnx.load_model_from_string(data).graph for data in (exported(), after("prune(0.9)")))
    kept = {t.name: numpy_helper.to_array(t) for t in pruned.initializer if t.name not in weights(exported())}
    assert len(kept) > 5
    for tensor in before.initializer:
        if tensor.name in kept:
            np.testing.assert_array_equal(kept[tensor.name], numpy_helper.to_array(tensor))


def test_dropping_dead_units_changes_no_score_and_narrows_the_matrices() -> None:
    net = ranker()
    with torch.no_grad():
        net.deep.weight[:, ::2] = 0  # of the first layer nobody listens to every other unit
        net.out.weight[:, 1::2] = 0
    data = onnx_bytes(net, SPEC)
    narrow = after("drop_units(0.5)", data)
    np.testing.assert_allclose(scores(narrow), scores(data), atol=1e-6)
    shapes = sorted(array.shape for array in weights(narrow).values())
    assert (4, 3) in shapes
    assert (8, 4) in shapes
    assert sum(shape[1] == 8 + 3 for shape in shapes) == 4  # what adds up to the first layer: half of 16, and 3 heads


def test_the_units_that_go_are_those_that_add_least() -> None:
    net = ranker()
    with torch.no_grad():
        net.out.weight[:, 3] *= 1e-6
        net.out.weight[:, 5] *= 1e-6
    data = onnx_bytes(net, SPEC)
    outgoing = next(a for a in weights(after("drop_units(0.25)", data)).values() if a.shape == (6, 3))
    np.testing.assert_array_equal(outgoing, np.delete(net.out.weight.detach().numpy().T, [3, 5], axis=0))


def test_units_that_somebody_else_reads_stay() -> None:
    made = onnx.load_model_from_string(linear(np.eye(4, dtype=np.float32)))
    made.graph.node[0].output[0] = "hidden"
    made.graph.node.append(helper.make_node("MatMul", ["hidden", "v"], ["scores"]))
    made.graph.initializer.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "v"))
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    step, asked = parse("drop_units(0.5)"), {"x": np.ones((1, 4), np.float32)}
    assert weights(compressed(made.SerializeToString(), step, asked))["v"].shape == (2, 2)
    made.graph.output.append(helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", 4]))
    assert weights(compressed(made.SerializeToString(), step, asked))["v"].shape == (4, 2)


def test_factors_are_the_nearest_of_their_rank_and_keep_the_energy_asked_for() -> None:
    matrix = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    sizes = np.linalg.svd(matrix, compute_uv=False)
    left, right = factors(matrix, 0.8)
    rank = left.shape[1]
    assert (sizes[:rank] ** 2).sum() >= 0.8 * (sizes**2).sum() > (sizes[: rank - 1] ** 2).sum()
    assert np.sum((left @ right - matrix) ** 2) == pytest.approx((sizes[rank:] ** 2).sum(), rel=1e-4)
    whole = factors(matrix, 1.0)
    np.testing.assert_allclose(whole[0] @ whole[1], matrix, atol=1e-5)


def test_a_matrix_of_low_rank_is_split_and_scores_stay() -> None:
    net = ranker((16, 16))
    with torch.no_grad():
        net.deep.weight.copy_(torch.outer(torch.randn(16), torch.randn(16)))
    data = onnx_bytes(net, SPEC)
    thin = after("low_rank(0.999999)", data)
    shapes = [array.shape for array in weights(thin).values()]
    assert (16, 1) in shapes
    assert (1, 16) in shapes
    assert len(shapes) == len(weights(data)) + 1  # the others are of full rank: factors would hold more numbers
    np.testing.assert_allclose(scores(thin), scores(data), atol=1e-5)


def test_half_precision_is_the_same_graph_over_rounded_weights() -> None:
    net = ranker()
    rounded = onnx.load_model_from_string(exported())
    halves = after("fp16")
    stored = onnx.load_model_from_string(halves).graph.initializer
    names = {t.name.removesuffix(":half") for t in stored if t.data_type == TensorProto.FLOAT16}
    for tensor in rounded.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    assert len(names) > 5
    np.testing.assert_allclose(scores(halves), scores(rounded.SerializeToString()), atol=1e-6)
    with torch.no_grad():
        net.deep.weight[0, 0] = 7e4  # beyond half precision: that matrix stays as it is
    large = onnx.load_model_from_string(after("fp16", onnx_bytes(net, SPEC)))
    assert sum(t.data_type == TensorProto.FLOAT16 for t in large.graph.initializer) == len(names) - 1


@pytest.mark.parametrize("way", ["int8_dynamic", "int8_static"])
def test_a_product_of_integers_is_off_by_no_more_than_half_a_step_of_each_factor(way: str) -> None:
    chance = np.random.default_rng(3)
    weight, x = (chance.normal(size=size).astype(np.float32) for size in ((24, 5), (40, 24)))
    data = compressed(linear(weight), parse(way), {"x": x})
    said = OnnxModel(data).tensors(["scores"], {"x": x})["scores"]
    stored = [numpy_helper.to_array(t) for t in onnx.load_model_from_string(data).graph.initializer]
    step_x = (x.max() - x.min()) / 255
    steps_w = np.abs(weight).max(axis=0) / 63
    ones_x, ones_w = np.ones_like(x), np.ones_like(weight)
    bound = np.abs(x) @ (ones_w * steps_w / 2) + (ones_x * step_x / 2) @ (np.abs(weight) + steps_w / 2)
    gap = np.abs(said - x.astype(np.float64) @ weight)
    assert (gap <= bound).all()
    (integers,) = [array for array in stored if array.dtype == np.int8 and array.shape == weight.shape]
    assert (
        60 < np.abs(integers.astype(int)).max() <= 64
    )  # seven bits, so that no processor's pairs of products overflow


def test_a_statically_scaled_score_does_not_depend_on_the_call_it_comes_in() -> None:
    alone = {name: array[:1] for name, array in requests().items()}
    static, dynamic = (
        np.abs(scores(data, alone) - scores(data)[:1]).max() for data in (after("int8_static"), after("int8_dynamic"))
    )
    assert static < 1e-6 < dynamic


@pytest.mark.parametrize(
    "plan",
    ["prune(0.5)", "drop_units(0.5)", "low_rank(0.7)", "fp16", "int8_dynamic", "int8_static",
     "drop_units(0.25), low_rank(0.8), prune(0.3), int8_static"],
)  # fmt: skip
def test_production_still_loads_the_file_and_asks_it_the_same(plan: str) -> None:
    data = after(plan)
    found = onnx_file.inspect(data)
    checks = onnx_file.judge_declaration(found, SPEC, FileBounds())
    assert [str(check) for check in checks if not check.passed] == []
    assert np.abs(scores(data) - scores(exported())).max() > 0


def test_a_plan_is_read_step_by_step() -> None:
    assert [str(step) for step in parse(" prune(.5),int8_static ")] == ["prune(0.5)", "int8_static"]
    assert parse("  ") == ()


@pytest.mark.parametrize(
    "text", ["zip", "prune", "prune(0)", "prune(1)", "prune(x)", "fp16(0.5)", "int8_static, prune(0.5)", "prune(0.5),"]
)
def test_a_wrong_plan_is_refused_at_start(text: str) -> None:
    with pytest.raises(InvalidInput, match="FRESHRANK_PUBLISHER_COMPRESSION"):
        load_settings(PublisherSettings, {"FRESHRANK_PUBLISHER_COMPRESSION": text})


def test_a_step_that_cannot_be_taken_is_named() -> None:
    broken = linear(np.full((8, 8), np.nan, np.float32))
    with pytest.raises(CorruptState, match=r"low_rank\(0\.9\)"):
        compressed(broken, parse("low_rank(0.9)"), {})


ROWS = arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


@given(ROWS)
def test_an_eight_bit_row_is_off_by_at_most_half_its_scale(rows: Floats) -> None:
    coded = int8(rows)
    gap = np.abs(coded.decode().astype(np.float64) - rows)
    assert (gap <= coded.scales[:, None].astype(np.float64) / 2 * (1 + 1e-5)).all()
    again = Int8Rows.from_bytes(coded.to_bytes(), rows.shape[1])
    np.testing.assert_array_equal(again.decode(), coded.decode())
    assert len(coded.to_bytes()) == len(rows) * (4 + rows.shape[1])


@given(arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32)))
def test_only_a_row_of_zeros_becomes_one(rows: Floats) -> None:
    told = np.abs(rows).max(axis=1) > 1e-37
    np.testing.assert_array_equal(through_int8(rows).any(axis=1)[told], True)
    assert not through_int8(np.zeros((1, 4), np.float32)).any()


@given(arrays(np.float32, (2, 6), elements=st.floats(-6e4, 6e4, width=32)))
def test_a_row_of_half_precision_is_off_by_one_part_in_2048(rows: Floats) -> None:
    gap = np.abs(half(rows).astype(np.float64) - rows)
    assert (gap <= np.maximum(np.abs(rows) * 2.0**-11, 2.0**-25)).all()


def test_rows_that_cannot_be_coded_are_refused() -> None:
    for codec in (int8, half):
        with pytest.raises(InvalidInput, match="finite"):
            codec(np.array([[np.nan]], np.float32))
    with pytest.raises(InvalidInput, match="65504"):
        half(np.array([[7e4]], np.float32))
    with pytest.raises(CorruptState, match="7 bytes"):
        Int8Rows.from_bytes(b"\0" * 7, 4)


def test_absent_rows_stay_absent_through_a_codec() -> None:
    rows, masks = Coded(NoRows(4), through_int8).items(["a", "b"])
    assert (rows.shape, rows.any(), masks.any()) == ((2, 4), False, False)
