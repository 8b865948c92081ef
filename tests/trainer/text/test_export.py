"""The exported folder against the model it is made from."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from services.cli.app import build
from services.common.errors import CorruptState
from services.text.folder import INPUTS, OUTPUT, Tokenizer, read
from services.text.names import encoder_id, incoming
from services.trainer.text import export as exports
from services.trainer.text.load import load
from services.trainer.text.model import Text
from tests.trainer.text import tiny

TEXTS = ["red shoes", "large steel kitchen sink with a long tap 3", "lamp", "blue " * 60]


@pytest.fixture
def text(tmp_path: Path) -> Text:
    return load(str(tiny.folder(tmp_path / "model", dense=8)))


def answers(folder: Path, texts: list[str]) -> np.ndarray:
    runtime = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return runtime.run([OUTPUT], dict(zip(INPUTS, Tokenizer.of(folder).items(texts), strict=True)))[0]


def test_texts_of_any_number_and_length_have_the_vectors_of_torch(text: Text, tmp_path: Path) -> None:
    exports.export(text, tmp_path / "out")
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:], TEXTS * 9):
        np.testing.assert_allclose(answers(tmp_path / "out", texts), text.items(texts), atol=1e-5)


def test_production_triton_reads_the_file(text: Text, tmp_path: Path) -> None:
    about = exports.export(text, tmp_path / "out")
    graph = onnx.load(tmp_path / "out/model.onnx")
    assert graph.ir_version <= 9
    assert max(entry.version for entry in graph.opset_import if not entry.domain) <= 17
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.graph.input}
    assert shapes == {name: ["B", "T"] for name in INPUTS}
    assert read(tmp_path / "out") == about


def test_the_golden_answers_are_those_of_the_file(text: Text, tmp_path: Path) -> None:
    exports.export(text, tmp_path / "out")
    golden = load_file(tmp_path / "out/golden.safetensors")
    runtime = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    found = runtime.run([OUTPUT], {name: golden[f"in.{name}"] for name in INPUTS})[0]
    np.testing.assert_allclose(found, golden[f"out.{OUTPUT}"], atol=1e-6)


def test_a_file_that_answers_otherwise_than_the_model_is_refused(text: Text, tmp_path: Path) -> None:
    data = exports.onnx_bytes(text)
    batches = [text.tokens.items(TEXTS)]
    wanted = exports.vectors(data, batches)
    exports.check(data, batches, wanted)
    with pytest.raises(CorruptState, match="differ"):
        exports.check(data, batches, [wanted[0] + 0.01])


def test_a_file_newer_than_triton_reads_is_refused(text: Text) -> None:
    data = exports.onnx_bytes(text)
    batches = [text.tokens.items(TEXTS)]
    graph = onnx.load_from_string(data)
    graph.ir_version = 10
    with pytest.raises(CorruptState, match="IR 10"):
        exports.check(graph.SerializeToString(), batches, exports.vectors(data, batches))


def test_eight_bits_are_smaller_and_say_what_they_lose(text: Text, tmp_path: Path) -> None:
    exports.export(text, tmp_path / "whole")
    about = exports.export(text, tmp_path / "small", int8=True)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < sizes[0]
    assert about.precision == "int8"
    assert 0.95 <= about.quality["cosine_least"] < 1
    cosines = (answers(tmp_path / "small", TEXTS) * text.items(TEXTS)).sum(1)
    assert cosines.min() > 0.95


def test_the_command_exports_the_packaged_model(tmp_path: Path) -> None:
    ran = CliRunner().invoke(build(), ["text", "export", "--out", str(tmp_path / "out"), "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["dim"] == 384
    text = load("default")
    np.testing.assert_allclose(answers(tmp_path / "out", TEXTS), text.items(TEXTS), atol=1e-5)


def test_the_command_names_what_it_cannot_read(tmp_path: Path) -> None:
    ran = CliRunner().invoke(build(), ["text", "export", "--model", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "model.safetensors" in ran.output
    assert not (tmp_path / "out").exists()


def test_the_command_puts_an_encoder_where_it_is_judged(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path / "model")
    for _ in range(2):
        ran = CliRunner().invoke(
            build(), ["text", "release", "--model", str(model), "--store", str(tmp_path), "--json"]
        )
        assert ran.exit_code == 0, ran.output
        folder = Path(json.loads(ran.stdout)["folder"])
        about = read(folder)
        assert folder.parent == incoming(tmp_path)
        assert folder.name == encoder_id(about.created_us, load(str(model)).about.source)
        assert about.parent == ""
