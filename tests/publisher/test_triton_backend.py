"""The configuration that Triton gets beside a model."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from services.common.errors import CorruptState, PermanentError
from services.publisher.triton_backend import config_pbtxt
from tests.demo import small_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    small_model.write(path)
    return path


def test_dimensions_that_vary_are_minus_one(model: Path) -> None:
    config = config_pbtxt("r1", model, "python")
    assert '{ name: "user" data_type: TYPE_FP32 dims: [ -1, 6 ] }' in config
    assert '{ name: "candidates" data_type: TYPE_FP32 dims: [ -1, -1, 4 ] }' in config
    assert '{ name: "mask" data_type: TYPE_BOOL dims: [ -1, -1 ] }' in config
    assert 'output [\n  { name: "scores" data_type: TYPE_FP32 dims: [ -1, -1 ] }\n]' in config


def test_constants_are_no_inputs(model: Path) -> None:
    assert "weight" not in config_pbtxt("r1", model, "python")


def test_backends_differ_in_their_name_and_threads_only(model: Path) -> None:
    local, cluster = (set(config_pbtxt("r1", model, backend).splitlines()) for backend in ("python", "onnxruntime"))
    assert local - cluster == {'backend: "python"'}
    assert {line.split(":")[0] for line in cluster - local} == {"backend", "parameters { key"}


def test_an_instance_is_on_the_cpu_unless_asked_for_elsewhere(model: Path) -> None:
    assert "kind: KIND_CPU" in config_pbtxt("r1", model, "onnxruntime")
    assert "kind: KIND_GPU" in config_pbtxt("r1", model, "onnxruntime", "KIND_GPU")


def test_an_unknown_backend_is_refused(model: Path) -> None:
    with pytest.raises(PermanentError, match="tensorrt"):
        config_pbtxt("r1", model, "tensorrt")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xff not a model")
    with pytest.raises(CorruptState):
        config_pbtxt("r1", path, "python")


@pytest.mark.parametrize(
    ("element", "shape"),
    [
        pytest.param(TensorProto.BFLOAT16, [1], id="type without a numpy twin"),
        pytest.param(TensorProto.FLOAT, [], id="no dimensions"),
    ],
)
def test_tensors_that_triton_cannot_carry_are_refused(tmp_path: Path, element: int, shape: list[int]) -> None:
    value = helper.make_tensor_value_info("x", element, shape)
    result = helper.make_tensor_value_info("y", element, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"))
    with pytest.raises(PermanentError, match="tensor x"):
        config_pbtxt("r1", tmp_path / "model.onnx", "python")
