"""Folders as sentence-transformers writes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from services.common.errors import InvalidInput
from services.trainer.text.load import load
from tests.trainer.text import tiny

TEXTS = ["red shoes", "large steel kitchen sink 3", "lamp", "", "not a word", "blue " * 60]


@pytest.mark.parametrize(
    ("pooling", "dense"), [("mean", 0), ("cls", 0), ("max", 0), ("mean", 8)], ids=["mean", "cls", "max", "dense"]
)
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, pooling: str, dense: int) -> None:
    folder = tiny.folder(tmp_path, pooling, dense)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    text = load(str(folder))
    assert text.about.dim == (dense or 32)
    np.testing.assert_allclose(text.items(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_the_packaged_model_knows_what_is_alike() -> None:
    text = load("default")
    query = text.queries(["angle bracket"])
    items = text.items(["Simpson Strong-Tie 12-Gauge Angle", "BEHR Premium Textured DeckOver 1-gal."])
    likeness = (query @ items.T)[0]
    assert text.about.dim == 384
    assert likeness[0] > likeness[1] + 0.2
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)


def test_a_plain_transformer_is_averaged(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path)
    with_modules = load(str(folder)).items(TEXTS)
    (folder / "modules.json").unlink()
    np.testing.assert_array_equal(load(str(folder)).items(TEXTS), with_modules)


def test_words_that_the_makers_put_before_a_text_are_kept(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path)
    plain = load(str(folder))
    tiny.write(folder / "config_sentence_transformers.json", {"prompts": {"query": "new ", "passage": "old "}})
    text = load(str(folder))
    np.testing.assert_array_equal(text.queries(["red shoe"]), plain.queries(["new red shoe"]))
    np.testing.assert_array_equal(text.items(["red shoe"]), plain.items(["old red shoe"]))


def test_lower_case_that_the_folder_asks_for_is_kept(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert not np.allclose(*load(str(folder)).items(["RED", "red"]))
    tiny.write(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": True})
    upper, lower = load(str(folder)).items(["RED", "red"])
    np.testing.assert_array_equal(upper, lower)


def test_equal_weights_have_an_equal_name_and_others_another(tmp_path: Path) -> None:
    one, same, other = (tiny.folder(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    names = [load(str(folder)).about.source for folder in (one, same, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("modules.json", "{", "modules.json"),
        ("modules.json", '[{"type": "a.b.Transformer", "path": ""}, {"type": "a.CNN", "path": "1"}]', "modules.json"),
        ("modules.json", '[{"type": "a.b.Pooling", "path": "1_Pooling"}]', "modules.json"),
        ("1_Pooling/config.json", '{"pooling_mode_weightedmean_tokens": true}', "1_Pooling/config.json"),
        ("config.json", '{"model_type": "no-such-network"}', "config.json"),
        ("model.safetensors", "nothing", "config.json"),
        ("model.safetensors", None, "model.safetensors"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("2_Dense/model.safetensors", None, "2_Dense/model.safetensors"),
        ("2_Dense/config.json", '{"activation_function": "os.system"}', "2_Dense/config.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | None, field: str) -> None:
    path = tiny.folder(tmp_path, dense=8) / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InvalidInput) as raised:
        load(str(tmp_path))
    assert raised.value.field == field


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path) / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InvalidInput, match="lacks 1 weights, such as encoder.layer.1.output.dense.weight"):
        load(str(tmp_path))


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is no folder"):
        load(str(tmp_path / "none"))
