"""Queries as other people would have typed them: a word left out, two changed about, a letter wrong. Pure.

Logs hold few spellings of what is seldom searched for. An encoder that learns a query in several forms meets the
next one better (augmentation of short texts; operations as in Wei and Zou, 2019, and typos for their synonyms).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_LETTERS = 4
"""Of a word that may be mistyped: in shorter ones every letter counts, in sizes and numbers too."""


@dataclass(frozen=True)
class Varied:
    """`share`: of the queries of a step that are learned in another form than they were typed in."""

    share: float = 0.3

    def forms(self, queries: Sequence[str], chance: np.random.Generator) -> list[str]:
        """Each query, or another form of it."""
        return [vary(query, chance) if chance.random() < self.share else query for query in queries]


def vary(query: str, chance: np.random.Generator) -> str:
    """Another form of a query; the query itself where there is none.

    >>> [vary("red garden chair", np.random.default_rng(seed)) for seed in range(4)]
    ['red garden char', 'red chair garden', 'red grden chair', 'red grden chair']
    """
    words = query.split()
    long = _long(words)
    ways = [_without_a_word, _changed_about] * (len(words) > 1) + [_mistyped] * bool(long)
    if not ways:
        return query
    return " ".join(ways[int(chance.integers(len(ways)))](words, long, chance))


def mistyped(query: str, chance: np.random.Generator) -> str:
    """A query with one wrong letter; the query itself where every word is short or a size."""
    words = query.split()
    long = _long(words)
    return " ".join(_mistyped(words, long, chance)) if long else query


def _long(words: Sequence[str]) -> list[int]:
    return [k for k, word in enumerate(words) if len(word) >= LEAST_LETTERS and word.isalpha()]


def _without_a_word(words: list[str], long: list[int], chance: np.random.Generator) -> list[str]:
    at = int(chance.integers(len(words)))
    return words[:at] + words[at + 1 :]


def _changed_about(words: list[str], long: list[int], chance: np.random.Generator) -> list[str]:
    one, other = chance.choice(len(words), 2, replace=False)
    changed = list(words)
    changed[one], changed[other] = words[other], words[one]
    return changed


def _mistyped(words: list[str], long: list[int], chance: np.random.Generator) -> list[str]:
    """A letter after the first is missing, doubled, or changes places with the one before it."""
    at = long[int(chance.integers(len(long)))]
    word = words[at]
    k = int(chance.integers(1, len(word)))
    start, end = word[:k], word[k:]
    forms = (start + end[1:], start + end[0] + end, start[:-1] + end[0] + start[-1] + end[1:])
    return [*words[:at], forms[int(chance.integers(len(forms)))], *words[at + 1 :]]
