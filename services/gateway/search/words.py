"""Text as words: what texts of the catalogue and queries are compared by."""

import re
import unicodedata
from collections.abc import Iterator

import rjieba

_PIECE = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")
_KANA = re.compile(r"[\u3040-\u30ff]+")
_AMOUNT = re.compile(r"(\d+(?:[.,]\d+)*)([a-z]{1,3})")
_MARKS = range(0x300, 0x370)
"""Accents of Latin, Greek and Cyrillic letters; marks of other scripts belong to their words."""

LONGEST = 64
"""Letters of a word; what follows is cut off."""


def words(text: str) -> list[str]:
    """Words in their order: case, accents and compatibility forms folded, punctuation left out.

    An amount and its unit are two words, as shops write them either way. Chinese is cut by a dictionary (jieba), into
    overlapping words as searches want them, and Japanese kana into pairs of letters.

    >>> words("Crème-Brûlée pan, 10ft")
    ['creme', 'brulee', 'pan', '10', 'ft']
    >>> words("红色连衣裙 XL")
    ['红色', '连衣', '衣裙', '连衣裙', 'xl']
    """
    return [word[:LONGEST] for piece in _PIECE.findall(_folded(text)) for word in _split(piece)]


def _folded(text: str) -> str:
    if text.isascii():
        return text.casefold()
    apart = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", "".join(letter for letter in apart if ord(letter) not in _MARKS))


def _split(piece: str) -> Iterator[str]:
    if piece.isascii():
        amount = _AMOUNT.fullmatch(piece)
        yield from amount.groups() if amount else (piece,)
        return
    at = 0
    for run in _HAN.finditer(piece):
        yield from _kana(piece[at : run.start()])
        yield from rjieba.cut_for_search(run.group())
        at = run.end()
    yield from _kana(piece[at:])


def _kana(piece: str) -> Iterator[str]:
    at = 0
    for run in _KANA.finditer(piece):
        if run.start() > at:
            yield piece[at : run.start()]
        pairs = run.group()
        yield from (pairs[k : k + 2] for k in range(max(1, len(pairs) - 1)))
        at = run.end()
    if at < len(piece):
        yield piece[at:]
