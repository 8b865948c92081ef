"""The words of the catalogue: a Tantivy index beside the item table, one writer, any number of readers.

A document is a live item. It carries its slot in the item table, so what is found are slots. What a word weighs is
BM25 (Robertson et al., 1994) of the field that it matches best, times that field's weight, and a tenth of its others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from freshrank.v1.models_pb2 import CatalogueItem
from numpy.typing import NDArray
from tantivy import Occur, Query

from services.common.errors import TemporaryError
from services.gateway.search.spelling import FROM, TWO_FROM
from services.gateway.search.suggest import Queries
from services.gateway.search.wish import Filter, Wish
from services.gateway.search.words import words
from services.text.item import item_text

WEIGHTS: Mapping[str, float] = {"title": 1.0, "brand": 0.6, "category": 0.5, "description": 0.2}
"""Fields of text, and what a match in each is worth."""

TIE = 0.1
"""What a word's matches in fields other than its best one count."""

HEAP_BYTES = 32_000_000
MOST_CATEGORIES = 16
MOST_TEXT = 600
"""Characters kept of an item's text: some 150 tokens."""
MOST_FACETS = 20
PRICE_RANGES = 6

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What words found, best first."""

    slots: Ints
    scores: Floats
    """BM25, as above."""
    count: int
    """Items that match at all."""


def _schema() -> tantivy.Schema:
    build = tantivy.SchemaBuilder()
    build.add_text_field("item", tokenizer_name="raw", index_option="basic")
    build.add_integer_field("slot", fast=True)
    for name in WEIGHTS:
        build.add_text_field(name, tokenizer_name="words", index_option="freq")
    build.add_text_field("vocabulary", tokenizer_name="plain", index_option="basic")
    build.add_text_field("in_category", tokenizer_name="raw", index_option="basic", fast=True)
    build.add_text_field("of_brand", tokenizer_name="raw", index_option="basic", fast=True)
    build.add_float_field("price", indexed=True, fast=True)
    build.add_bytes_field("text", stored=True)
    return build.build()


class _Analysis:
    """How words become terms: the same for items and queries."""

    def __init__(self, language: str) -> None:
        plain = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        self.plain = plain.build()
        stemmed = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        self.words = (stemmed.filter(tantivy.Filter.stemmer(language)) if language else stemmed).build()

        self._telling = _without_stops(language)

    def tells(self, word: str) -> bool:
        """Whether a word says something by itself, as `the` and `of` do not."""
        return bool(self._telling.analyze(word)) if self._telling is not None else True

    def register(self, index: tantivy.Index) -> None:
        """Tell an index of both."""
        index.register_tokenizer("words", self.words)
        index.register_tokenizer("plain", self.plain)

    def term(self, word: str) -> str:
        """The stem of a word."""
        return next(iter(self.words.analyze(word)), word)


def _without_stops(language: str) -> Any:
    """Lets words of a language pass but for those that every text has; None for a language without a list."""
    try:
        build = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        return build.filter(tantivy.Filter.stopword(language)).build()
    except ValueError:
        return None


class IndexWriter:
    """The one writer of a folder's index."""

    def __init__(self, folder: Path, language: str) -> None:
        """`language` of the stemmer, as Tantivy names it; empty = words stay as they are."""
        folder.mkdir(parents=True, exist_ok=True)
        self._schema = _schema()
        self._index = tantivy.Index(self._schema, path=str(folder))
        _Analysis(language).register(self._index)
        self._writer = self._index.writer(HEAP_BYTES, 1)
        self.dirty = False

    def put(self, item: str, slot: int, entry: CatalogueItem | None) -> None:
        """Add or replace an item; None takes it out."""
        self._writer.delete_documents_by_term("item", item)
        if entry is not None and entry.stock != 0:
            self._writer.add_document(tantivy.Document.from_dict(_fields(item, slot, entry), self._schema))
        self.dirty = True

    def commit(self) -> None:
        """Make what was put visible and durable."""
        self._writer.commit()
        self.dirty = False


def _fields(item: str, slot: int, entry: CatalogueItem) -> dict[str, Any]:
    texts = {
        "title": words(entry.title),
        "brand": words(entry.brand),
        "category": [word for name in entry.categories for word in words(name)],
        "description": words(entry.description),
    }
    known = texts["title"] + texts["brand"] + texts["category"]
    fields: dict[str, Any] = {name: [" ".join(found)] for name, found in texts.items() if found}
    fields |= {"item": [item], "slot": slot, "vocabulary": [" ".join(dict.fromkeys(known))]}
    fields["in_category"] = list(entry.categories[:MOST_CATEGORIES])
    fields["of_brand"] = [entry.brand.casefold()] if entry.brand else []
    if not math.isnan(entry.price):
        fields["price"] = entry.price
    fields["text"] = [item_text(entry)[:MOST_TEXT].encode(errors="replace")]
    return fields


class IndexReader:
    """A reader of a folder's index: what was committed when it last looked."""

    def __init__(self, folder: Path, language: str) -> None:
        """Raises TemporaryError while the writer has not made it yet."""
        if not (folder / "meta.json").is_file():
            raise TemporaryError("the index of words is not there yet")
        self._meta = folder / "meta.json"
        self._index = tantivy.Index.open(str(folder))
        self._index.config_reader("manual")
        self._schema = self._index.schema
        self._analysis = _Analysis(language)
        self._analysis.register(self._index)
        self._seen, self.queries = 0, Queries(folder)
        self.refresh()

    def refresh(self) -> bool:
        """Look again; True when there was something new. May run in a thread beside `search`."""
        self.queries.refresh()
        stamp = self._meta.stat().st_mtime_ns
        if stamp == self._seen:
            return False
        self._index.reload()
        self._searcher, self._seen = self._index.searcher(), stamp
        return True

    @property
    def count(self) -> int:
        """Items in it."""
        return int(self._searcher.num_docs)

    def vocabulary(self) -> list[tuple[str, int]]:
        """Words of titles, brands and categories with the number of items that have each."""
        found: list[tuple[str, int]] = self._searcher.terms_with_prefix("vocabulary", "")
        return found

    def beginning(self, prefix: str, count: int) -> list[tuple[str, int]]:
        """Words that begin so, the most frequent first."""
        found: list[tuple[str, int]] = self._searcher.terms_with_prefix("vocabulary", prefix, limit=count)
        return found

    def tells(self, word: str) -> bool:
        """Whether a word says something by itself."""
        return self._analysis.tells(word)

    def frequency(self, word: str) -> int:
        """Items that have it in the field in which most have it, in any of its forms."""
        term = self._analysis.term(word)
        return max(int(self._searcher.doc_freq(name, term)) for name in WEIGHTS)

    def matched(self, words: Sequence[str], item: str) -> list[str]:
        """Those of the words that an item has, with a wrong letter too where nobody has them right."""
        chosen = Query.term_set_query(self._schema, "item", [item])
        return [word for word in words if self._both(chosen, self._word(word))]

    def _both(self, one: Query, other: Query) -> bool:
        both = Query.boolean_query([(Occur.Must, one), (Occur.Must, other)])
        return bool(self._searcher.search(both, 1, count=False).hits)

    def search(self, wish: Wish, keep: Filter, most: int, least: int = 1) -> Found:
        """The best matches among the items to keep, of those that have at least so many of the words."""
        searcher = self._searcher
        result = searcher.search(self._kept(self._match(wish, least), keep), most, count=True)
        return Found(
            _slots(searcher, [address for _, address in result.hits]),
            np.array([score for score, _ in result.hits], np.float32),
            int(result.count or 0),
        )

    def scores(self, wish: Wish, items: Sequence[str]) -> dict[int, float]:
        """BM25 of some items by their slots; without those that match nothing."""
        chosen = Query.const_score_query(Query.term_set_query(self._schema, "item", list(items)), 0.0)
        both = Query.boolean_query([(Occur.Must, chosen), (Occur.Must, self._match(wish))])
        searcher = self._searcher
        hits = searcher.search(both, max(1, len(items)), count=False).hits
        slots = _slots(searcher, [address for _, address in hits]).tolist()
        return dict(zip(slots, (score for score, _ in hits), strict=True))

    def texts(self, items: Sequence[str]) -> dict[int, str]:
        """What rerankers read of some items, by their slots."""
        chosen, searcher = Query.const_score_query(self._chosen(items), 0.0), self._searcher
        addresses = [address for _, address in searcher.search(chosen, max(1, len(items)), count=False).hits]
        kept = [bytes(searcher.doc(address)["text"][0]).decode(errors="replace") for address in addresses]
        return dict(zip(_slots(searcher, addresses).tolist(), kept, strict=True))

    def passing_count(self, keep: Filter) -> int:
        """Items that pass a filter."""
        query = self._kept(Query.const_score_query(Query.all_query(), 0.0), keep)
        return int(self._searcher.search(query, 1, count=True).count or 0)

    def passing(self, keep: Filter, most: int, among: Sequence[str] | None = None) -> Ints:
        """Slots of items that pass a filter, of all or of some; at most `most`."""
        every = Query.all_query() if among is None else self._chosen(among)
        query = self._kept(Query.const_score_query(every, 0.0), keep)
        searcher = self._searcher
        hits = searcher.search(query, max(1, most), count=False).hits
        return _slots(searcher, [address for _, address in hits])

    def facets(
        self, wish: Wish, keep: Filter, least: int = 1, also: Sequence[str] = ()
    ) -> dict[str, list[tuple[str, int]]]:
        """What is found, and some items besides, counted by category, brand and ranges of price."""
        match = self._match(wish, least)
        if also:
            match = Query.boolean_query([(Occur.Should, match), (Occur.Should, self._chosen(also))])
        query = self._kept(match, keep)
        found = self._searcher.aggregate(query, _ASKED)
        out = {name: [(b["key"], b["doc_count"]) for b in found[name]["buckets"]] for name in ("category", "brand")}
        low, high = found["least"]["value"], found["most"]["value"]
        if low is None or high is None:
            return out | {"price": []}
        width = _round_width((high - low) / PRICE_RANGES)
        asked = {"price": {"histogram": {"field": "price", "interval": width, "min_doc_count": 1}}}
        ranges = self._searcher.aggregate(query, asked)["price"]["buckets"]
        return out | {"price": [(f"{b['key']:g}", b["doc_count"]) for b in ranges]}

    def _chosen(self, items: Sequence[str]) -> Query:
        return Query.term_set_query(self._schema, "item", list(items))

    def _match(self, wish: Wish, least: int = 1) -> Query:
        each = [(Occur.Should, self._any_of(alternatives)) for alternatives in wish.words]
        words = Query.boolean_query(each, least) if each else Query.empty_query()
        if not wish.optional:
            return words
        besides = [(Occur.Should, Query.boost_query(self._word(word), TIE)) for word in wish.optional]
        return Query.boolean_query([(Occur.Should, words), *besides])

    def _any_of(self, alternatives: Sequence[str]) -> Query:
        queries = [self._word(word) for word in alternatives]
        return queries[0] if len(queries) == 1 else Query.disjunction_max_query(queries)

    def _word(self, word: str) -> Query:
        term = self._analysis.term(word)
        known = [name for name in WEIGHTS if self._searcher.doc_freq(name, term)]
        if known:
            exact = (Query.term_query(self._schema, name, term, "freq") for name in known)
            parts = [Query.boost_query(query, WEIGHTS[name]) for name, query in zip(known, exact, strict=True)]
            return Query.disjunction_max_query(parts, TIE)
        if len(word) < FROM:
            return Query.empty_query()
        distance = 2 if len(word) >= TWO_FROM else 1
        return Query.fuzzy_term_query(self._schema, "vocabulary", word, distance)

    def _kept(self, match: Query, keep: Filter) -> Query:
        musts = [(Occur.Must, match)]
        for name, values in (("in_category", keep.categories), ("of_brand", [b.casefold() for b in keep.brands])):
            if values:
                chosen = Query.term_set_query(self._schema, name, list(values))
                musts.append((Occur.Must, Query.const_score_query(chosen, 0.0)))
        if keep.price_from > -math.inf or keep.price_to < math.inf:
            within = Query.range_query(
                self._schema,
                "price",
                tantivy.FieldType.Float,
                None if keep.price_from == -math.inf else keep.price_from,
                None if keep.price_to == math.inf else keep.price_to,
            )
            musts.append((Occur.Must, Query.const_score_query(within, 0.0)))
        return match if len(musts) == 1 else Query.boolean_query(musts)


def _slots(searcher: Any, addresses: list[tantivy.DocAddress]) -> Ints:
    """Of documents, by the searcher that found them: to another one, which `refresh` may have put in its place
    meanwhile, the same addresses are other documents.
    """
    return np.array(searcher.fast_field_values("slot", addresses), np.int64).reshape(len(addresses))


_ASKED = {
    "category": {"terms": {"field": "in_category", "size": MOST_FACETS}},
    "brand": {"terms": {"field": "of_brand", "size": MOST_FACETS}},
    "least": {"min": {"field": "price"}},
    "most": {"max": {"field": "price"}},
}


def _round_width(width: float) -> float:
    """The next 1, 2 or 5 times a power of ten.

    >>> _round_width(37)
    50.0
    """
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return power * next((step for step in (1.0, 2.0, 5.0) if step * power >= width), 10.0)
