"""From what was typed to what is looked for: one spelling, words, synonyms, corrections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import InvalidInput
from services.gateway.search.rewrite import Rewrite, unchanged
from services.gateway.search.wish import Wish
from services.gateway.search.words import words
from services.text.normal import normal_query

MOST_WORDS = 32
"""Words of a query that are looked for: of a longer text, such as a conversation, those that fewest items have."""


@dataclass(frozen=True)
class Query:
    """A query as it is understood."""

    text: str
    """In one spelling."""
    corrected: str
    """What is looked for instead; empty = nothing was corrected."""
    wish: Wish

    @property
    def size(self) -> int:
        """Words looked for."""
        return len(self.wish.words)


class Synonyms:
    """Groups of words or phrases that mean the same.

    >>> Synonyms([["tv", "television"], ["couch", "sofa"]]).of(("tv",))
    [('television',)]
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._others: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for group in groups:
            phrases = list(dict.fromkeys(filter(None, (tuple(words(phrase)) for phrase in group))))
            for phrase in phrases:
                self._others.setdefault(phrase, []).extend(other for other in phrases if other != phrase)
        self.longest = max(map(len, self._others), default=0)

    @staticmethod
    def read(path: Path) -> "Synonyms":
        """A file with a group per line, separated by commas; `#` begins a remark. Raises InvalidInput."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("synonyms", "unreadable", f"{path.name}: {error}") from error
        groups = [line.partition("#")[0].split(",") for line in lines]
        groups = [group for group in groups if any(part.strip() for part in group)]
        for number, group in enumerate(groups, 1):
            if len(group) < 2:
                raise InvalidInput("synonyms", "malformed", f"{path.name}: group {number} has one member only")
        return Synonyms(groups)

    def of(self, phrase: tuple[str, ...]) -> list[tuple[str, ...]]:
        """What may stand for a phrase."""
        return self._others.get(phrase, [])


def understand(
    text: str,
    frequency: Callable[[str], int],
    correct: Callable[[str], str | None],
    synonyms: Synonyms,
    rewrite: Rewrite = unchanged,
    tells: Callable[[str], bool] = lambda word: True,
) -> Query:
    """Raises InvalidInput for a query in which there is no word.

    `frequency`: items that have a word; `correct`: the word that an unknown one without synonyms was meant to be;
    `tells`: whether a word says something by itself: the others are passed over unless there are no more.
    """
    normal = normal_query(text)
    typed = words(rewrite(normal)) if normal else []
    found = _telling([word for word in typed if tells(word)] or typed, frequency)
    if normal is None or not found:
        raise InvalidInput("query", "missing_field", "there is no word in it")
    unknown = [word for word in dict.fromkeys(found) if not frequency(word) and not synonyms.of((word,))]
    instead: Mapping[str, str] = {word: better for word in unknown if (better := correct(word))}
    meant, whole = ([instead.get(word, word) for word in part] for part in (found, typed[:MOST_WORDS]))
    return Query(normal, " ".join(whole) if instead else "", _wish(meant, whole, synonyms))


def _telling(found: list[str], frequency: Callable[[str], int]) -> list[str]:
    if len(found) <= MOST_WORDS:
        return found
    known = {word: frequency(word) for word in dict.fromkeys(found)}
    rarest = sorted((word for word, count in known.items() if count), key=lambda word: known[word])
    return rarest[:MOST_WORDS] or found[:MOST_WORDS]


def _wish(meant: Sequence[str], whole: Sequence[str], synonyms: Synonyms) -> Wish:
    """`whole`: the words in their order, with those that say nothing: phrases may have some."""
    alternatives = [[word, *(other[0] for other in synonyms.of((word,)) if len(other) == 1)] for word in meant]
    besides: list[str] = []
    for start in range(len(whole)):
        for length in range(1, min(synonyms.longest, len(whole) - start) + 1):
            others = synonyms.of(tuple(whole[start : start + length]))
            besides.extend(word for other in others if length > 1 or len(other) > 1 for word in other)
    return Wish(alternatives, list(dict.fromkeys(besides)))
