"""What words say of a query and a title: BM25 by tantivy, and features of a pair."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import Stemmer
import tantivy
from numpy.typing import NDArray
from symspellpy import SymSpell, Verbosity

from benchmarks.search.judged import Floats, Judged

_WORD = re.compile(r"[a-z0-9]+(?:[./][0-9]+)*")
_NUMBER = re.compile(r"\d+(?:[./]\d+)*")
NAMES = (
    "bm25",
    "bm25 share",
    "overlap",
    "overlap by rarity",
    "overlap corrected",
    "overlap corrected by rarity",
    "overlap of trigrams",
    "title covered",
    "pairs of words",
    "whole query in title",
    "first word",
    "last word",
    "last word is title's head",
    "where the first match is",
    "numbers found",
    "numbers asked",
    "query words",
    "title words",
    "query letters",
    "title letters",
    "rarity of the rarest absent word",
    "words corrected",
)


def words(text: str) -> list[str]:
    """Words and numbers in lower case.

    >>> words("3/4 in. Plywood, 4x8")
    ['3/4', 'in', 'plywood', '4x8']
    """
    return _WORD.findall(text.lower())


def bm25(judged: Judged) -> Floats:
    """Of each pair, in an index of every title, stemmed as English."""
    titles = list(dict.fromkeys(judged.titles))
    place = {title: number for number, title in enumerate(titles)}
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("number", stored=True, indexed=True, fast=True)
    builder.add_text_field("title", tokenizer_name="en_stem")
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(50_000_000, 1)
    for number, title in enumerate(titles):
        writer.add_document(tantivy.Document(number=number, title=title))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher, out = index.searcher(), np.zeros(len(judged))
    analyser = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
    stem = analyser.filter(tantivy.Filter.stemmer("english")).build()
    for query, places in by_query(judged):
        terms = [tantivy.Query.term_query(schema, "title", term) for term in stem.analyze(query)]
        numbers = {place[judged.titles[k]]: k for k in places}
        asked = tantivy.Query.term_set_query(schema, "number", list(numbers))
        must = (tantivy.Occur.Must, tantivy.Query.const_score_query(asked, 0.0))
        whole = tantivy.Query.boolean_query([must, *((tantivy.Occur.Should, term) for term in terms)])
        scores = {
            searcher.doc(address)["number"][0]: score for score, address in searcher.search(whole, len(places)).hits
        }
        for k in places:
            out[k] = scores.get(place[judged.titles[k]], 0.0)
    return out


def by_query(judged: Judged) -> Iterator[tuple[str, list[int]]]:
    """Places of the pairs of each query."""
    found: dict[str, list[int]] = {}
    for number, query in enumerate(judged.queries):
        found.setdefault(query, []).append(number)
    yield from found.items()


class Features:
    """Features of pairs; the catalogue's words say how rare a word is and how it is spelled."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._stem = lru_cache(200_000)(Stemmer.Stemmer("english").stemWord)
        seen = Counter(word for title in titles for word in set(words(title)))
        stems = Counter(stem for title in titles for stem in {self._stem(word) for word in words(title)})
        self._rarity = {stem: float(np.log(len(titles) / count)) for stem, count in stems.items()}
        self._most = float(np.log(len(titles) + 1))
        self._spelling = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
        for word, count in seen.items():
            if len(word) > 2 and not word[0].isdigit():
                self._spelling.create_dictionary_entry(word, count)
        self._corrected = lru_cache(100_000)(self._correct)

    def matrix(self, judged: Judged, bm25_scores: Floats) -> NDArray[np.float32]:
        """[pairs, features], in the order of NAMES."""
        rows = [
            self._row(query, title, score)
            for query, title, score in zip(judged.queries, judged.titles, bm25_scores.tolist(), strict=True)
        ]
        return np.array(rows, np.float32)

    def overlap(self, judged: Judged) -> Floats:
        """Share of a query's words that the title has, as they are written."""
        pairs = zip(judged.queries, judged.titles, strict=True)
        return np.array([_share(words(query), set(words(title))) for query, title in pairs])

    def _correct(self, word: str) -> str:
        if self._stem(word) in self._rarity or len(word) < 4 or any(letter.isdigit() for letter in word):
            return word
        found = self._spelling.lookup(word, Verbosity.TOP, max_edit_distance=1 if len(word) < 7 else 2)
        return found[0].term if found else word

    def _row(self, query: str, title: str, score: float) -> list[float]:
        asked, given = words(query), words(title)
        stems, have = [self._stem(w) for w in asked], [self._stem(w) for w in given]
        right = [self._stem(self._corrected(w)) for w in asked]
        has, rare = set(have), [self._rarity.get(stem, self._most) for stem in right]
        found = [stem in has for stem in right]
        total = sum(rare) or 1.0
        absent = [r for r, f in zip(rare, found, strict=True) if not f]
        numbers = _NUMBER.findall(query)
        titled = set(_NUMBER.findall(title))
        pairs = set(zip(have, have[1:], strict=False))
        asked_pairs = list(zip(right, right[1:], strict=False))
        head = have[: next((k for k, w in enumerate(given) if w in _ENDS), len(have))]
        return [
            score,
            score / (total + 1),
            _share(asked, set(given)),
            self._weighted(stems, has),
            _share(right, has),
            self._weighted(right, has),
            _share(_trigrams(query), set(_trigrams(title))),
            _share(have, set(right)),
            _share(asked_pairs, pairs),
            float(" ".join(right) in " ".join(have)),
            float(bool(right) and right[0] in has),
            float(bool(right) and right[-1] in has),
            float(bool(right) and bool(head) and right[-1] == head[-1]),
            next((k for k, stem in enumerate(have) if stem in set(right)), len(have)) / (len(have) or 1),
            _share(numbers, titled),
            float(len(numbers)),
            float(len(asked)),
            float(len(given)),
            float(len(query)),
            float(len(title)),
            max(absent, default=0.0),
            float(sum(self._corrected(w) != w for w in asked)),
        ]

    def _weighted(self, stems: Sequence[str], has: set[str]) -> float:
        rare = [self._rarity.get(stem, self._most) for stem in stems]
        found = sum(r for r, stem in zip(rare, stems, strict=True) if stem in has)
        return found / sum(rare) if sum(rare) else 0.0


_ENDS = {"with", "for", "in", "and", "of"}
"""What a thing is called stands before these."""


def _share(asked: Sequence[object], has: set[object]) -> float:  # type: ignore[type-arg]
    return sum(one in has for one in asked) / len(asked) if asked else 0.0


def _trigrams(text: str) -> list[str]:
    joined = f" {' '.join(words(text))} "
    return [joined[k : k + 3] for k in range(len(joined) - 2)]
