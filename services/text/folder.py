"""The folder of an exported text encoder: what the trainer writes and Triton and the gateway read.

::

    encoder.json            what it is (`Encoder`), with the SHA-256 of the other files
    tokenizer.json          of the `tokenizers` library; padding and truncation in it are ours
    model.onnx              opset 17, IR 9 at most
    golden.safetensors      in.input_ids, in.attention_mask, out.embedding: to warm up by and to compare with
    categories.safetensors  which category a query asks for, by its vector (categories.py); not every encoder has one

model.onnx has the inputs `input_ids` and `attention_mask`, int64 [B, T], both axes free, and the output `embedding`,
float32 [B, dim], each row of length 1: a dot product is the cosine. With its int8 form the folder has the same files;
`precision` tells them apart. Queries and items go through the same model; where its makers put words before them
("query: "), `Tokenizer` does. Vectors of one encoder mean nothing to another one: `source` is the name they share.

A reranker's folder has the same files: its model reads a query and an item's text together and answers one number
(reranker.py).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as _Tokenizer

from services.common.errors import CorruptState

Ints = NDArray[np.int64]

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "embedding"
ENCODER, RERANKER = "encoder", "reranker"
"""Kinds of model: one vector for each text, or one score for a query and a text."""
FORMAT = 1
MULTIPLE = 8
"""Batches are padded to a multiple of so many tokens, so that few widths come."""
PROBLEMS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Encoder:
    """encoder.json."""

    name: str
    dim: int
    """Numbers that a text becomes; 1 for a reranker."""
    max_tokens: int
    """Longer texts are cut; the marks at both ends count."""
    pooling: str
    """mean, cls or max: how tokens become one vector, inside the graph; empty for a reranker."""
    source: str
    """SHA-256 of the weights and tokens it was exported from: the identity of its vectors."""
    pad_id: int = 0
    precision: str = "float32"
    """float32, or int8 for weights as 8-bit integers."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """`query` and `item`: what is put before a text of that kind; absent: nothing."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Of int8: cosine_mean and cosine_least with the float32 vectors of the same texts."""
    created_us: int = 0
    """When it was exported, microseconds since 1970; 0: not said. With `source` it makes the name (names.py)."""
    parent: str = ""
    """`source` of the encoder that its training began from; empty: of none here."""
    learned_up_to_us: int = 0
    """Log time of the newest example it has learned from; 0: from none."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the trainer: what it measured on pairs before learning them, beside the encoder it began from."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the other files by name."""
    kind: str = ENCODER
    inputs: Sequence[str] = INPUTS
    """What model.onnx takes; of rerankers some tell the two texts apart by a third."""
    format: int = FORMAT

    def to_json(self) -> str:
        """What is written."""
        return json.dumps(asdict(self), indent=1)


def read(folder: Path, check: bool = True) -> Encoder:
    """What a folder holds. Raises CorruptState, naming the file, when it is not whole."""
    try:
        found = json.loads((folder / "encoder.json").read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"has format {found['format']}, this reads {FORMAT}")
        encoder = Encoder(**found)
    except PROBLEMS as error:
        raise CorruptState(f"{folder / 'encoder.json'}: {error}") from error
    for name, wanted in encoder.files.items() if check else ():
        _check(folder / name, wanted)
    return encoder


def _check(path: Path, wanted: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptState(f"{path}: {error}") from error
    if found != wanted:
        raise CorruptState(f"{path}: is not the file that encoder.json was written for")


class Tokenizer:
    """Texts to what the model takes. Training uses this class too, so tokens are equal by construction."""

    def __init__(self, json_text: str, max_tokens: int, pad_id: int, prompts: Mapping[str, str] | None = None) -> None:
        """Of the text of a tokenizer.json. Raises CorruptState."""
        try:
            self._tokens: Any = _Tokenizer.from_str(json_text)
            pad = self._tokens.id_to_token(pad_id)
            if pad is None:
                raise ValueError(f"has no token {pad_id} to pad with")
            self._tokens.enable_truncation(max_tokens)
            self._tokens.enable_padding(pad_id=pad_id, pad_token=pad, pad_to_multiple_of=MULTIPLE)
        except Exception as error:  # the library raises plain Exception
            raise CorruptState(f"tokenizer.json: {error}") from error
        self.max_tokens = max_tokens
        self._prompts = dict(prompts or {})

    @classmethod
    def of(cls, folder: Path) -> "Tokenizer":
        """Of an exported folder. Raises CorruptState."""
        encoder = read(folder, check=False)
        try:
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except PROBLEMS as error:
            raise CorruptState(f"{folder / 'tokenizer.json'}: {error}") from error
        return cls(text, encoder.max_tokens, encoder.pad_id, encoder.prompts)

    def queries(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Ids and mask [B, T] of queries."""
        return self._encode(texts, self._prompts.get("query", ""))

    def items(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Ids and mask [B, T] of titles and other words of items."""
        return self._encode(texts, self._prompts.get("item", ""))

    def pairs(self, queries: Sequence[str], texts: Sequence[str]) -> tuple[Ints, Ints, Ints]:
        """Ids, mask and which of the two each token is of [B, T], of each query with its text; the longer is cut."""
        every = zip(queries, texts, strict=True)
        found = self._tokens.encode_batch([(_whole(query), _whole(text)) for query, text in every])
        width = len(found[0].ids) if found else MULTIPLE
        columns = [[getattr(entry, name) for entry in found] for name in ("ids", "attention_mask", "type_ids")]
        ids, mask, types = (np.array(column, np.int64).reshape(len(texts), width) for column in columns)
        return ids, mask, types

    def id_of(self, token: str) -> int | None:
        """Number of a token; None: there is none of this spelling."""
        found: int | None = self._tokens.token_to_id(token)
        return found

    def to_json(self) -> str:
        """As it is written to tokenizer.json."""
        text: str = self._tokens.to_str()
        return text

    def _encode(self, texts: Sequence[str], prompt: str) -> tuple[Ints, Ints]:
        found = self._tokens.encode_batch([prompt + _whole(text) for text in texts])
        if not found:
            return np.zeros((0, MULTIPLE), np.int64), np.zeros((0, MULTIPLE), np.int64)
        ids = np.array([entry.ids for entry in found], np.int64)
        return ids, np.array([entry.attention_mask for entry in found], np.int64)


def _whole(text: str) -> str:
    """Text that can be written as UTF-8: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
