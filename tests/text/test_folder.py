"""The folder that the gateway and Triton read, and its tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from services.common.errors import CorruptState
from services.text.folder import MULTIPLE, Encoder, Tokenizer, read
from services.trainer.text.load import MAX_TOKENS, folder_of
from tests.trainer.text import tiny

PACKAGED = folder_of("default")[0]
TOKENS = Tokenizer((PACKAGED / "tokenizer.json").read_text(), MAX_TOKENS, 0)
REFERENCE = AutoTokenizer.from_pretrained(PACKAGED, local_files_only=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=200), min_size=1, max_size=5))
def test_tokens_are_those_of_the_library_that_made_the_model(texts: list[str]) -> None:
    ids, mask = TOKENS.items(texts)
    for text, row, kept in zip(texts, ids, mask, strict=True):
        wanted = REFERENCE(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        assert row[kept == 1].tolist() == wanted
        assert not row[kept == 0].any()


def test_a_batch_is_as_wide_as_its_longest_text_rounded_up() -> None:
    widths = [TOKENS.items(texts)[0].shape for texts in (["a"], ["a", "b " * 10], ["c " * 500], [])]
    assert widths == [(1, MULTIPLE), (2, 16), (1, MAX_TOKENS), (0, MULTIPLE)]
    assert TOKENS.items(["a"])[0].dtype == TOKENS.items([])[1].dtype == np.int64


@pytest.mark.parametrize("text", ["", "\x00\x1b[2J", "\ud800", "שלום עולם", "👩‍💻", "x" * 10_000], ids=ascii)
def test_any_text_has_tokens(text: str) -> None:
    ids, mask = TOKENS.queries([text])
    assert mask.sum() >= 2
    assert ids.shape[1] <= MAX_TOKENS


def test_a_folder_without_its_description_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CorruptState, match="encoder.json"):
        read(tmp_path)


@pytest.mark.parametrize("change", ['{"format": 2}', "[]", '{"format": 1, "who": "knows"}'])
def test_a_description_that_is_not_ours_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "encoder.json").write_text(change)
    with pytest.raises(CorruptState, match="encoder.json"):
        read(tmp_path)


def test_a_file_that_was_changed_afterwards_is_refused_by_name(tmp_path: Path) -> None:
    tiny.folder(tmp_path)
    about = Encoder("a", 32, 16, "mean", "0", files={"tokenizer.json": "0" * 64})
    (tmp_path / "encoder.json").write_text(about.to_json())
    with pytest.raises(CorruptState, match="tokenizer.json"):
        read(tmp_path)
    assert Tokenizer.of(tmp_path).items(["red"])[0].shape == (1, MULTIPLE)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptState, match="tokenizer.json"):
        Tokenizer.of(tmp_path)
