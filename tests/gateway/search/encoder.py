"""An encoder of words for tests: each word has a direction of its own, and words that mean the same share one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from freshrank.v1.models_pb2 import CatalogueItem, ItemRow
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from services.common.errors import FreshrankError
from services.common.spec import Arrays
from services.publisher.compression.rows import messages
from services.text import folder as folders
from services.text import names
from services.text.categories import FILE, Categories
from services.text.folder import Encoder
from services.text.item import item_text, text_hash

WORDS = ("[PAD]", "[UNK]", "thing", "couch", "sofa", "lamp", "light", "red", "old", "bed", "chair")
MEANING = {"sofa": "couch", "light": "lamp"}
DIM = len(WORDS)


class Embedder:
    """Vectors as Triton would answer them; can be told to fail. `turn`: makes the vectors of another encoder."""

    def __init__(self, turn: dict[str, int] | None = None) -> None:
        self.turn = turn or {}
        self.failure: FreshrankError | None = None
        self.asked: list[str] = []

    async def embed(self, encoder: str, arrays: Arrays, timeout_s: float) -> NDArray[np.float32]:
        """Sum of the directions of the words, of length 1."""
        self.asked.append(encoder)
        if self.failure is not None:
            raise self.failure
        return vectors(arrays["input_ids"], self.turn.get(encoder, 0))


def vectors(ids: NDArray[np.int64], turn: int = 0) -> NDArray[np.float32]:
    """[B, DIM] of tokens [B, T]."""
    same = np.array([WORDS.index(MEANING.get(word, word)) for word in WORDS])
    out = np.zeros((len(ids), DIM), np.float32)
    for row, tokens in zip(out, ids, strict=True):
        np.add.at(row, same[tokens[tokens > 1]], 1.0)
    out[:, 0] += 0.1  # nothing is without a vector
    return np.roll(out / np.linalg.norm(out, axis=1, keepdims=True), turn, axis=1)


def telling(told: Mapping[str, str]) -> Categories:
    """Tells a category by a word, rather surely."""
    weights = np.zeros((1 + len(told), DIM), np.float32)
    for place, word in enumerate(told, 1):
        weights[place, WORDS.index(word)] = 4.0
    return Categories(["", *told.values()], weights, np.zeros(1 + len(told), np.float32))


def tokens() -> Tokenizer:
    """Whole words, in small letters."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def keep(store: Path, encoder: str, told: Mapping[str, str] | None = None) -> None:
    """What the gateway reads of an encoder's folder. `told`: category by the word that asks for it."""
    folder = names.kept(store) / encoder
    folder.mkdir(parents=True)
    about = Encoder(encoder, DIM, 32, "mean", source=encoder[-8:] * 8)
    if told is not None:
        about = replace(about, files={FILE: ""})
        (folder / FILE).write_bytes(telling(told).to_bytes())
    (folder / "encoder.json").write_text(about.to_json())
    (folder / "tokenizer.json").write_text(tokens().to_str())


def rows(entries: Sequence[CatalogueItem], slot: str, epoch: int, turn: int = 0) -> list[tuple[bytes, bytes | None]]:
    """Records of item_updates with the vectors of some items' texts."""
    reader = folders.Tokenizer(tokens().to_str(), 32, 0)
    texts = [item_text(entry) for entry in entries]
    made: Sequence[ItemRow] = messages(vectors(reader.items(texts)[0], turn), "int8")
    for row, text in zip(made, texts, strict=True):
        row.epoch, row.seq = epoch, text_hash(text)
    return [
        (f"r|{slot}|{entry.item_id}".encode(), row.SerializeToString())
        for entry, row in zip(entries, made, strict=True)
    ]
