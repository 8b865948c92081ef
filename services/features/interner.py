"""Texts as numbers: state holds a number where it means a word."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Interner:
    """Numbers words from 0 in the order they come."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words: list[str] = []
        self._codes: dict[str, int] = {}
        self.codes(words)

    def codes(self, words: Sequence[str]) -> Ints:
        """Number of each word, new ones included.

        >>> Interner().codes(["a", "b", "a"]).tolist()
        [0, 1, 0]
        """
        known = self._codes
        out = np.empty(len(words), np.int64)
        for place, word in enumerate(words):
            code = known.get(word)
            if code is None:
                code = known[word] = len(self.words)
                self.words.append(word)
            out[place] = code
        return out

    def restart(self, words: Sequence[str]) -> None:
        """Forget all words but these, numbered in this order."""
        self.words = []
        self._codes = {}
        self.codes(words)

    def text(self, codes: Ints) -> list[str]:
        """Word of each number."""
        words = self.words
        return [words[code] for code in codes.tolist()]


def pack_words(words: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Texts as two arrays: bytes end to end, and where each ends."""
    encoded = [word.encode() for word in words]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return {"ends": ends, "bytes": np.frombuffer(b"".join(encoded), np.uint8).copy()}


def unpack_words(ends: Ints, data: NDArray[np.uint8]) -> list[str]:
    """Read back `pack_words`.

    >>> packed = pack_words(["a", "", "öb"])
    >>> unpack_words(packed["ends"], packed["bytes"])
    ['a', '', 'öb']
    """
    raw, places = data.tobytes(), [0, *ends.tolist()]
    return [raw[start:end].decode() for start, end in zip(places, places[1:], strict=False)]
