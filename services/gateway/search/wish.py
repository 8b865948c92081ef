"""What is looked for: words, and which items may be found."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Filter:
    """Which items may be found."""

    categories: Sequence[str] = ()
    brands: Sequence[str] = ()
    price_from: float = -math.inf
    price_to: float = math.inf


@dataclass(frozen=True)
class Wish:
    """What is looked for: each word with what may stand for it."""

    words: Sequence[Sequence[str]]
    """Per word of the query the word itself and what may stand instead of it."""
    optional: Sequence[str] = field(default_factory=tuple)
    """Words that may be there besides."""

    @property
    def most_words(self) -> int:
        """Words of an item that is surely meant: all of up to three, of more three quarters."""
        return math.ceil(len(self.words) * (1.0 if len(self.words) <= 3 else 0.75))
