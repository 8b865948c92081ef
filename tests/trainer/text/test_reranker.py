"""A cross-encoder's folder against the exported one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from services.cli.app import build
from services.common.errors import CorruptState, InvalidInput
from services.text.folder import RERANKER, read
from services.text.names import RERANKER_ID, incoming
from services.text.reranker import INPUTS, OUTPUT, PairTokenizer
from services.trainer.text.reranker import Floats, answers, export, load
from tests.trainer.text import tiny

QUERY = "red shoes"
TEXTS = ["red shoe 3", "large steel kitchen sink with a long tap", "lamp", "blue " * 60]


def exported(folder: Path, query: str, texts: list[str]) -> Floats:
    return answers((folder / "model.onnx").read_bytes(), PairTokenizer.of(folder).pairs(query, texts))


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_the_library_that_made_the_model(tmp_path: Path, labels: int) -> None:
    folder = tiny.reranker(tmp_path / "model", labels)
    export(load(str(folder)), tmp_path / "out")
    library = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    options = {"truncation": "longest_first", "max_length": 64, "padding": True, "return_token_type_ids": True}
    batch = library([QUERY] * 4, TEXTS, return_tensors="pt", **options)
    logits = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits.detach().numpy()
    wanted = logits if labels == 1 else logits[:, 1:] - logits[:, :1]
    np.testing.assert_allclose(exported(tmp_path / "out", QUERY, TEXTS), wanted, atol=1e-5)
    for some in (TEXTS[:1], TEXTS[2:], TEXTS * 9):
        found = exported(tmp_path / "out", QUERY, some)
        np.testing.assert_allclose(found, wanted[[TEXTS.index(text) for text in some]], atol=1e-5)


def test_the_two_texts_are_told_apart(tmp_path: Path) -> None:
    export(load(str(tiny.reranker(tmp_path / "model"))), tmp_path / "out")
    arrays = PairTokenizer.of(tmp_path / "out").pairs("red", ["blue"])
    assert list(arrays) == list(INPUTS)
    assert arrays["token_type_ids"][0, :5].tolist() == [0, 0, 0, 1, 1]
    graph = onnx.load(tmp_path / "out/model.onnx").graph
    assert [value.name for value in graph.input] == list(INPUTS)
    assert [value.name for value in graph.output] == [OUTPUT]


def test_a_model_without_types_takes_none(tmp_path: Path) -> None:
    about = export(load(str(tiny.reranker(tmp_path / "model", types=1))), tmp_path / "out")
    assert list(about.inputs) == list(INPUTS[:2])
    assert exported(tmp_path / "out", QUERY, TEXTS).shape == (4, 1)


def test_long_texts_are_cut_and_empty_ones_are_scored(tmp_path: Path) -> None:
    export(load(str(tiny.reranker(tmp_path / "model")), max_tokens=16), tmp_path / "out")
    tokens = PairTokenizer.of(tmp_path / "out")
    assert tokens.pairs("red " * 99, ["blue " * 99])["input_ids"].shape == (1, 16)
    assert tokens.pairs("red", [])["input_ids"].shape == (0, 8)
    assert np.isfinite(exported(tmp_path / "out", "\ud800", ["", "\x00"])).all()


def test_the_golden_answers_are_those_of_the_file(tmp_path: Path) -> None:
    about = export(load(str(tiny.reranker(tmp_path / "model"))), tmp_path / "out")
    golden = load_file(tmp_path / "out/golden.safetensors")
    found = answers((tmp_path / "out/model.onnx").read_bytes(), {name: golden[f"in.{name}"] for name in INPUTS})
    np.testing.assert_allclose(found, golden[f"out.{OUTPUT}"], atol=1e-6)
    assert (about.kind, about.dim) == (RERANKER, 1)
    assert read(tmp_path / "out") == about


def test_eight_bits_are_smaller_and_say_what_they_lose(tmp_path: Path) -> None:
    made = load(str(tiny.reranker(tmp_path / "model")))
    export(made, tmp_path / "whole")
    about = export(made, tmp_path / "small", int8=True)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < sizes[0]
    assert about.precision == "int8"
    assert 0.95 <= about.quality["correlation"] < 1


def test_a_model_of_many_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="3 labels"):
        load(str(tiny.reranker(tmp_path, labels=3)))


def test_an_encoder_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="classifier"):
        load(str(tiny.folder(tmp_path / "model")))
    with pytest.raises(InvalidInput, match="is no folder"):
        load("default")


def test_an_encoders_folder_scores_no_pairs(tmp_path: Path) -> None:
    from services.trainer.text.export import export as export_encoder
    from services.trainer.text.load import load as load_encoder

    export_encoder(load_encoder(str(tiny.folder(tmp_path / "model"))), tmp_path / "out")
    with pytest.raises(CorruptState, match="no reranker"):
        PairTokenizer.of(tmp_path / "out")


def test_the_command_puts_a_reranker_where_it_is_judged(tmp_path: Path) -> None:
    model = tiny.reranker(tmp_path / "model")
    asked = ["text", "release", "--reranker", "--model", str(model), "--store", str(tmp_path), "--json"]
    ran = CliRunner().invoke(build(), asked)
    assert ran.exit_code == 0, ran.output
    folder = Path(json.loads(ran.stdout)["folder"])
    assert folder.parent == incoming(tmp_path, RERANKER)
    assert RERANKER_ID.fullmatch(folder.name)
    assert folder.name.endswith(read(folder).source[:8])
