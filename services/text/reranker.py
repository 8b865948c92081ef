"""Pairs of a query and a text as a reranker reads them.

A reranker is a cross-encoder (Nogueira & Cho, 2019): one Transformer reads both texts together, which tells better than
two vectors what they have to do with each other, and costs a pass for every pair. Its folder is an encoder's
(folder.py) with `kind` "reranker"; model.onnx has the output `score`, float32 [B, 1]: higher fits better, and only the
order of a query's scores means something.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.common.errors import CorruptState
from services.common.spec import Arrays
from services.text import folder as folders
from services.text.folder import RERANKER, Encoder, Tokenizer

INPUTS = (*folders.INPUTS, "token_type_ids")
OUTPUT = "score"

Floats = NDArray[np.float32]


class PairTokenizer:
    """Pairs to what one reranker takes."""

    def __init__(self, tokens: Tokenizer, inputs: Sequence[str]) -> None:
        self._tokens, self._inputs = tokens, tuple(inputs)

    @classmethod
    def of(cls, folder: Path) -> "PairTokenizer":
        """Of an exported folder. Raises CorruptState."""
        about = folders.read(folder, check=False)
        if about.kind != RERANKER:
            raise CorruptState(f"{folder.name} is no reranker")
        return cls(Tokenizer.of(folder), about.inputs)

    def pairs(self, query: str, texts: Sequence[str]) -> Arrays:
        """Inputs [B, T] by name, of a query with each text."""
        return self.each([query] * len(texts), texts)

    def each(self, queries: Sequence[str], texts: Sequence[str]) -> Arrays:
        """The same of each query with its text."""
        every = dict(zip(INPUTS, self._tokens.pairs(queries, texts), strict=True))
        return {name: every[name] for name in self._inputs}


def tolerance(about: Encoder, scores: Floats) -> float:
    """How far a score may be off: scores have no size of their own, so a share of the largest; 8-bit ones more, as
    their products depend on the processor.
    """
    share = 0.05 if about.precision == "int8" else 1e-3
    return share * max(1.0, float(np.abs(scores).max(initial=0)))
