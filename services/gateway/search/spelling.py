"""What a word nobody has was meant to be: the nearest word of the catalogue, as shoppers search for it."""

from collections.abc import Mapping, Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA

FROM, TWO_FROM = 4, 8
"""Letters from which a word may have one wrong letter (added, left out, changed, swapped), and two."""

NEAREST = 24
REMEMBERED = 10_000


class Speller:
    """Corrects words by a vocabulary; compared in one pass over it, some milliseconds for 50,000 words.

    >>> shop = Speller([("lamp", 40), ("lamb", 2), ("drill", 9)])
    >>> shop.correct("lamo"), shop.told({"lamb": 30}).correct("lamo"), shop.correct("dril")
    ('lamp', 'lamb', 'drill')
    """

    def __init__(self, vocabulary: Sequence[tuple[str, int]]) -> None:
        """`vocabulary`: words with how many items have each. Words with digits in them correct nothing."""
        kept = [(word, count) for word, count in vocabulary if len(word) >= FROM - 1 and word.isalpha()]
        self._words, self._counts = [word for word, _ in kept], [count for _, count in kept]
        self._searched: Mapping[str, int] = {}
        self._known: dict[str, str | None] = {}

    def told(self, searched: Mapping[str, int]) -> "Speller":
        """One that knows how many shoppers search for a word: what many look for is likelier meant."""
        other = Speller([])
        other._words, other._counts, other._searched = self._words, self._counts, searched
        return other

    def correct(self, word: str) -> str | None:
        """The nearest word; None if none is near.

        Of equally near ones that which begins alike, then that which more shoppers search for, then that of more items.
        """
        if word not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[word] = self._nearest(word)
        return self._known[word]

    def _nearest(self, word: str) -> str | None:
        if len(word) < FROM or not word.isalpha():
            return None
        most = 2 if len(word) >= TWO_FROM else 1
        near = process.extract(word, self._words, scorer=OSA.distance, score_cutoff=most, limit=NEAREST)
        if not near:
            return None
        return str(min(near, key=lambda hit: self._rank(word, *hit))[0])

    def _rank(self, word: str, near: str, distance: float, place: int) -> tuple[object, ...]:
        return distance, near[0] != word[0], -self._searched.get(near, 0), -self._counts[place], near
