"""The index of words: what is found, in which order, and what a restart keeps."""

from pathlib import Path
from typing import Any

import pytest
from freshrank.v1.models_pb2 import CatalogueItem

from services.common.errors import TemporaryError
from services.gateway.search.index import IndexReader
from services.gateway.search.wish import Filter, Wish
from services.gateway.search.words import words
from services.gateway.search.writer import Indexer
from services.gateway.table_writer import Origin

SHOP = {
    "drill": ("Cordless Drill 18V", ["tools"], "Bolt", 99.0, -1),
    "bits": ("Drill bits, set of 20", ["tools", "parts"], "Bolt", 19.0, 5),
    "lamp": ("Desk lamp", ["lights"], "Sol", 40.0, -1),
    "lamps": ("Two lamps for walls", ["lights"], "Bolt", 45.0, -1),
    "gone": ("Drill, old", ["tools"], "Bolt", 5.0, 0),
    "dress": ("红色连衣裙", ["服装"], "Mei", float("nan"), -1),
}
ALL = Filter()
SLOTS = {item: slot for slot, item in enumerate(SHOP)}


def entry(item: str, title: str, categories: list[str], brand: str, price: float, stock: int) -> CatalogueItem:
    return CatalogueItem(item_id=item, title=title, categories=categories, brand=brand, price=price, stock=stock)


class Index:
    def __init__(self, folder: Path, language: str = "english", keep: bool = False) -> None:
        self.folder, self.language, self.now_s = folder, language, 0.0
        self.writer = Indexer(folder, Origin("log", "boot"), language, keep)

    def put(self, *entries: CatalogueItem) -> None:
        self.apply([(f"c|{e.item_id}".encode(), e.SerializeToString()) for e in entries])

    def apply(self, updates: list[tuple[bytes, bytes | None]]) -> None:
        self.now_s += 10
        self.writer.apply(updates, lambda item: SLOTS.get(item, 99))
        self.writer.settle({0: int(self.now_s)}, self.now_s, caught_up=True)

    def found(self, query: str, keep: Filter = ALL) -> list[str]:
        names = {slot: item for item, slot in SLOTS.items()}
        slots = IndexReader(self.folder, self.language).search(wish(query), keep, 10).slots
        return [names.get(slot, "new") for slot in slots.tolist()]


def wish(query: str) -> Wish:
    return Wish([[word] for word in words(query)])


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index(tmp_path / "words")
    made.put(*(entry(item, *rest) for item, rest in SHOP.items()))
    return made


def test_the_title_that_has_most_of_the_words_comes_first(index: Index) -> None:
    assert index.found("cordless drill") == ["drill", "bits"]


def test_forms_of_a_word_are_one(index: Index) -> None:
    assert set(index.found("lamp")) == set(index.found("LAMPS")) == {"lamp", "lamps"}


def test_without_a_language_they_are_not(tmp_path: Path) -> None:
    plain = Index(tmp_path, language="")
    plain.put(*(entry(item, *rest) for item, rest in SHOP.items()))
    assert plain.found("lamps") == ["lamps"]


def test_a_wrong_letter_still_finds(index: Index) -> None:
    assert index.found("cordlees") == ["drill"]
    assert index.found("xyz") == []


def test_chinese_is_found_by_its_words(index: Index) -> None:
    assert index.found("连衣裙") == index.found("红色") == ["dress"]


def test_what_is_sold_out_is_not_found_until_it_is_there_again(index: Index) -> None:
    assert "gone" not in index.found("drill")
    index.put(entry("gone", "Drill, old", ["tools"], "Bolt", 5.0, 3))
    assert "gone" in index.found("drill")


@pytest.mark.parametrize(
    ("keep", "items"),
    [
        (Filter(categories=["parts"]), {"bits"}),
        (Filter(categories=["parts", "lights"]), {"bits"}),
        (Filter(brands=["BOLT"]), {"drill", "bits"}),
        (Filter(brands=["Sol"]), set()),
        (Filter(price_to=50), {"bits"}),
        (Filter(price_from=50), {"drill"}),
        (Filter(price_from=99, price_to=99), {"drill"}),
        (Filter(categories=["tools) OR (lights"]), set()),
    ],
)
def test_only_what_passes_the_filter_is_found(index: Index, keep: Filter, items: set[str]) -> None:
    assert set(index.found("drill", keep)) == items


def test_filters_do_not_change_the_order_or_the_scores(index: Index) -> None:
    reader = IndexReader(index.folder, "english")
    free = reader.search(wish("drill set"), ALL, 10)
    kept = reader.search(wish("drill set"), Filter(brands=["bolt"]), 10)
    assert (free.slots.tolist(), free.scores.tolist()) == (kept.slots.tolist(), kept.scores.tolist())


def test_what_is_found_is_counted(index: Index) -> None:
    reader = IndexReader(index.folder, "english")
    counted = reader.facets(wish("drill lamp"), ALL)
    assert counted["category"] == [("lights", 2), ("tools", 2), ("parts", 1)]
    assert counted["brand"] == [("bolt", 3), ("sol", 1)]
    assert counted["price"] == [("0", 1), ("40", 2), ("80", 1)]
    assert reader.facets(wish("连衣裙"), ALL)["price"] == []
    assert reader.facets(wish("xyz"), ALL)["category"] == []


def test_scores_of_named_items_are_those_of_the_search(index: Index) -> None:
    reader = IndexReader(index.folder, "english")
    found = reader.search(wish("cordless drill"), ALL, 10)
    expected = dict(zip(found.slots.tolist(), found.scores.tolist(), strict=True))
    assert reader.scores(wish("cordless drill"), ["bits", "drill", "lamp", "nowhere"]) == pytest.approx(expected)


def test_a_later_entry_replaces_an_earlier_one_and_none_takes_it_out(index: Index) -> None:
    index.put(entry("lamp", "Floor light", ["lights"], "Sol", 40.0, -1))
    assert index.found("desk") == []
    assert index.found("floor") == ["lamp"]
    index.apply([(b"c|lamp", None), (b"f|item_stats|drill", b"x"), (b"c|bits", b"\xff\xff")])
    assert index.found("floor") == []
    assert index.found("bits") == []  # what cannot be read is not there
    assert IndexReader(index.folder, "english").count == 3


def test_a_reader_sees_what_was_committed_when_it_looks(index: Index) -> None:
    reader = IndexReader(index.folder, "english")
    index.put(entry("new", "Chisel", ["tools"], "Bolt", 9.0, -1))
    assert reader.search(wish("chisel"), ALL, 10).count == 0
    assert reader.refresh()
    assert not reader.refresh()
    assert reader.search(wish("chisel"), ALL, 10).slots.tolist() == [99]


def test_a_restart_goes_on_where_the_last_commit_was(index: Index) -> None:
    committed = index.writer.positions
    index.writer.apply([(b"c|lost", entry("lost", "Saw", [], "", 1.0, -1).SerializeToString())], lambda item: 7)
    index.writer.settle({0: 999}, index.now_s, caught_up=True)  # too soon after the last: not committed
    del index.writer
    again = Index(index.folder, keep=True)
    assert again.writer.positions == committed
    assert again.found("saw") == []
    assert again.found("cordless") == ["drill"]


def test_a_restart_does_not_read_again_what_changed_no_item(index: Index) -> None:
    index.writer.apply([(b"f|item_stats|drill", b"x")], lambda item: 0)
    index.writer.settle({0: 5_000}, index.now_s + 1, caught_up=True)
    assert index.writer.positions != {0: 5_000}  # not at once: others write it many times a second
    index.writer.settle({0: 6_000}, index.now_s + 6, caught_up=True)
    del index.writer
    assert Index(index.folder, keep=True).writer.positions == {0: 6_000}


@pytest.mark.parametrize(
    ("log", "language", "keep"), [("other", "english", True), ("log", "german", True), ("log", "english", False)]
)
def test_another_log_language_or_a_new_table_begins_anew(index: Index, log: str, language: str, keep: bool) -> None:
    del index.writer
    writer = Indexer(index.folder, Origin(log, "boot"), language, keep)
    assert writer.positions == {}
    assert IndexReader(index.folder, language).count == 0


def test_there_is_no_reader_before_the_writer(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError):
        IndexReader(tmp_path, "english")


def test_words_that_every_text_has_say_nothing(tmp_path: Path) -> None:
    known, without = (IndexReader(Index(tmp_path / name, name).folder, name) for name in ("english", "turkish"))
    assert [word for word in ("the", "of", "drill") if known.tells(word)] == ["drill"]
    assert without.tells("the")  # a language without a list


class Renewing:
    """A searcher beside whom the index is renewed as soon as it has found something."""

    def __init__(self, reader: IndexReader) -> None:
        self._reader, self._searcher = reader, reader._searcher

    def search(self, *asked: Any, **options: Any) -> Any:
        found = self._searcher.search(*asked, **options)
        assert self._reader.refresh()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._searcher, name)


def test_what_was_found_is_read_where_it_was_found_while_the_index_is_renewed(index: Index) -> None:
    reader = IndexReader(index.folder, index.language)
    before = reader.search(wish("drill"), ALL, 10).slots.tolist()
    index.put(*(entry(f"new-{item}", *rest) for item, rest in SHOP.items()))
    index.apply([(f"c|{item}".encode(), None) for item in SHOP])  # now the first documents are others
    reader._searcher = Renewing(reader)
    assert reader.search(wish("drill"), ALL, 10).slots.tolist() == before
    assert reader.search(wish("drill"), ALL, 10).slots.tolist() == [99, 99]
