"""Queries that many shoppers search for, from the topic to a suggestion, the same in every process."""

from pathlib import Path

import pytest
from freshrank.v1.models_pb2 import ItemFeatures

from services.gateway.search.index import IndexReader
from services.gateway.search.suggest import Queries
from services.gateway.search.writer import Indexer
from services.gateway.table_writer import Origin, Update

ORIGIN = Origin("log", "boot")


def said(query: str, shoppers: int) -> Update:
    """A record of the topic; none of so many = none at all."""
    return f"q|{query}".encode(), ItemFeatures(values=[shoppers]).SerializeToString() if shoppers else None


class Writer:
    """The process that writes, with the clock in hand."""

    def __init__(self, folder: Path, keep: bool = False) -> None:
        self.indexer, self.now_s, self.offset = Indexer(folder, ORIGIN, "english", keep), 0.0, 0

    def take(self, *updates: Update, seconds: float = 10.0) -> None:
        self.now_s += seconds
        self.offset += len(updates)
        self.indexer.apply(updates, lambda item: 0)
        self.indexer.settle({0: self.offset}, self.now_s, caught_up=True)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    made = Writer(tmp_path)
    made.take(said("red shoes", 5), said("red hat", 9), said("red", 3), said("blue shoes", 20))
    return made


def test_what_most_shoppers_search_for_comes_first(tmp_path: Path, writer: Writer) -> None:
    queries = IndexReader(tmp_path, "english").queries
    assert queries.beginning("red", 5) == ["red hat", "red shoes", "red"]
    assert queries.beginning("red", 1) == ["red hat"]
    assert queries.beginning("red s", 5) == ["red shoes"]
    assert queries.beginning("r", 5, lambda query: "shoes" in query) == ["red shoes"]
    assert queries.beginning("green", 5) == []


def test_a_query_that_too_few_search_for_is_taken_back(tmp_path: Path, writer: Writer) -> None:
    reader = IndexReader(tmp_path, "english")
    writer.take(said("red hat", 0), said("red shoes", 1 << 20), (b"q|red bag", b"\xff"))
    reader.refresh()
    assert reader.queries.beginning("red", 5) == ["red shoes", "red"]


def test_words_of_queries_are_counted_by_shoppers_and_anew_when_they_change(tmp_path: Path, writer: Writer) -> None:
    reader = IndexReader(tmp_path, "english")
    seen = reader.queries.seen
    assert reader.queries.words() == {"red": 17, "shoes": 25, "hat": 9, "blue": 20}
    writer.take(said("hat hat", 4))
    reader.refresh()
    assert reader.queries.seen > seen
    assert reader.queries.words()["hat"] == 13


def test_before_anybody_has_searched_there_is_nothing(tmp_path: Path) -> None:
    queries = Queries(tmp_path)
    queries.refresh()
    assert queries.beginning("red", 5) == []


def test_a_restart_reads_on_from_what_is_written(tmp_path: Path, writer: Writer) -> None:
    writer.take(said("red coat", 7), seconds=1.0)  # not written yet
    del writer.indexer  # lets go of the folder
    again = Writer(tmp_path, keep=True)
    assert again.indexer.positions == {0: 4}
    again.take(said("red coat", 7))
    assert IndexReader(tmp_path, "english").queries.beginning("red", 5) == ["red hat", "red coat", "red shoes", "red"]


def test_another_log_begins_with_none(tmp_path: Path, writer: Writer) -> None:
    Indexer(tmp_path, Origin("another", "boot"), "english", keep=True)
    assert IndexReader(tmp_path, "english").queries.beginning("red", 5) == []
