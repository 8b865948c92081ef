"""Content of an item as a vector: a pure function of hashed tokens, the same in gateway and trainer.

The hashing trick (Weinberger et al., 2009): each token adds +1 or -1 at one place, then the vector
is scaled to length 1. Tokens travel instead of vectors: four bytes each, exact, and they name no item.
"""

import re
from collections.abc import Sequence

import mmh3
import numpy as np
from numpy.typing import NDArray

CONTENT_DIM = 32
MAX_TOKENS = 16
_WORD = re.compile(r"\w+")


def tokens_of(categories: Sequence[str], brand: str, title: str) -> list[int]:
    """Hash categories, brand and the words of the title; at most 16 tokens, in this order, no repeats.

    >>> tokens_of(["shoes"], "", "Red shoes") == tokens_of(["shoes"], "", "red Shoes")
    True
    """
    named = [f"c:{c.lower()}" for c in categories if c] + ([f"b:{brand.lower()}"] if brand else [])
    words = [f"w:{word}" for word in _WORD.findall(title.lower())]
    return [mmh3.hash(token.encode(), signed=False) for token in list(dict.fromkeys(named + words))[:MAX_TOKENS]]


def content_vector(tokens: Sequence[int], dim: int = CONTENT_DIM) -> NDArray[np.float32]:
    """Vector of one item, shape [dim], length 1 (all zero without tokens)."""
    vector: NDArray[np.float32] = content_matrix([tokens], dim)[0]
    return vector


def content_matrix(rows: Sequence[Sequence[int]], dim: int = CONTENT_DIM) -> NDArray[np.float32]:
    """Vectors of many items, shape [len(rows), dim].

    >>> content_matrix([[5], []]).shape
    (2, 32)
    """
    out = np.zeros((len(rows), dim), dtype=np.float32)
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    if not lengths.sum():
        return out
    flat = np.fromiter((token for row in rows for token in row), dtype=np.uint32, count=int(lengths.sum()))
    sign = np.where(flat >> 31, np.float32(-1), np.float32(1))
    np.add.at(out, (np.repeat(np.arange(len(rows)), lengths), flat % dim), sign)
    norm = np.sqrt((out * out).sum(axis=1, keepdims=True))
    np.divide(out, norm, out=out, where=norm > 0)
    return out
