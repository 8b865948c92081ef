"""Continued pre-training: an encoder names hidden words of the catalogue."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from services.cli.app import build
from services.common.errors import InvalidInput
from services.trainer.text import mlm
from services.trainer.text.load import load
from tests.trainer.text import tiny

COLOURS, THINGS = ("red", "blue", "green", "black"), ("shoe", "lamp", "table", "chair")
TEXTS = [f"new {colour} {thing} {thing} wood" for colour in COLOURS for thing in THINGS]


def chance() -> np.random.Generator:
    return np.random.default_rng(0)


def test_only_words_are_hidden_and_of_every_text_one() -> None:
    ids, mask = np.full((200, 16), 30), np.zeros((200, 16), np.int64)
    for row, length in enumerate(np.random.default_rng(1).integers(3, 17, 200)):
        mask[row, :length] = 1
    hidden, asked = mlm.masked(ids, mask, 4, 100, 0.15, chance())
    words = mask.copy()
    words[:, 0] = 0
    words[np.arange(200), mask.sum(1) - 1] = 0
    assert not asked[words == 0].any()
    assert asked.any(1).all()
    assert (hidden[~asked] == 30).all()
    shares = [float((hidden[asked] == 4).mean()), float((hidden[asked] == 30).mean())]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.06)
    assert 0.15 < asked.sum() / words.sum() < 0.3


def test_a_text_without_words_hides_nothing() -> None:
    ids, mask = np.array([[2, 3, 0, 0]]), np.array([[1, 1, 0, 0]])
    hidden, asked = mlm.masked(ids, mask, 4, 9, 0.5, chance())
    assert not asked.any()
    assert (hidden == ids).all()


def test_it_learns_what_stands_beside_what(tmp_path: Path) -> None:
    text = load(str(tiny.folder(tmp_path / "model")))
    told: list[float] = []
    losses = mlm.pretrain(text, TEXTS, mlm.Plan(40, 8, 0.002, 0.01), told.append)
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 1
    assert told[-1] == 40 * len(TEXTS)
    assert np.allclose(np.linalg.norm(text.items(TEXTS), axis=1), 1, atol=1e-5)


def test_the_head_learns_alone_first(tmp_path: Path) -> None:
    text = load(str(tiny.folder(tmp_path / "model")))
    before = text.items(TEXTS)
    mlm.pretrain(text, TEXTS, mlm.Plan(3, 8, head_first=1.0), lambda _: None)
    np.testing.assert_array_equal(text.items(TEXTS), before)
    assert all(value.requires_grad for value in text.model.parameters())


def test_equal_seeds_give_equal_bits(tmp_path: Path) -> None:
    model = str(tiny.folder(tmp_path / "model"))
    found = []
    for seed in (1, 1, 2):
        text = load(model)
        torch.rand(3)  # what others draw changes nothing
        mlm.pretrain(text, TEXTS, mlm.Plan(2, 8, 0.001, seed=seed), lambda _: None)
        found.append(text.items(TEXTS))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_what_is_written_is_a_model_with_the_new_vectors(tmp_path: Path) -> None:
    model = str(tiny.folder(tmp_path / "model", dense=8))
    text = load(model)
    mlm.pretrain(text, TEXTS, mlm.Plan(3, 8, 0.001), lambda _: None)
    mlm.write(text, model, tmp_path / "out")
    again = load(str(tmp_path / "out"))
    np.testing.assert_array_equal(again.items(TEXTS), text.items(TEXTS))
    assert again.about.dim == 8
    assert not np.allclose(load(model).items(TEXTS), text.items(TEXTS))


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_read_is_refused(texts: list[str], tmp_path: Path) -> None:
    text = load(str(tiny.folder(tmp_path / "model")))
    with pytest.raises(InvalidInput, match="catalogue"):
        mlm.pretrain(text, texts, mlm.Plan(), lambda _: None)


def test_tokens_without_a_mask_are_refused(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "model")
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("[MASK]", "[ELSE]"))
    with pytest.raises(InvalidInput, match="tokenizer.json"):
        mlm.pretrain(load(str(folder)), TEXTS, mlm.Plan(), lambda _: None)


def test_the_command_reads_a_catalogue(tmp_path: Path) -> None:
    with (tmp_path / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("sku", "title", "brand"), *((k, text, "acme") for k, text in enumerate(TEXTS))])
    model, out = str(tiny.folder(tmp_path / "model")), tmp_path / "out"
    words = ["text", "pretrain", "--model", model, "--catalogue", str(tmp_path / "items.csv"), "--out", str(out)]
    ran = CliRunner().invoke(build(), [*words, "--map-catalogue", "item=sku", "--epochs", "20", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["texts"] == len(TEXTS)
    assert not np.array_equal(load(str(out)).items(TEXTS), load(model).items(TEXTS))
