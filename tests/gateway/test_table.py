"""The item table: one writer, many readers, files that outlive both."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import CatalogueItem, ItemFeatures, ItemRow

from services.common.content import content_vector, tokens_of
from services.common.errors import TemporaryError
from services.gateway.table import ItemTable
from services.gateway.table_writer import FIRST_CAPACITY, Origin, TableWriter
from services.publisher.compression.rows import CODECS, messages

HERE = Origin("log", "boot")


Update = tuple[bytes, bytes | None]


def entry(item: str, price: float = 1.0, stock: int = -1, categories: tuple[str, ...] = ("shoes",)) -> Update:
    content = tokens_of(categories, "", item)
    message = CatalogueItem(item_id=item, price=price, stock=stock, categories=categories, content=content)
    return f"c|{item}".encode(), message.SerializeToString()


def features(item: str, values: dict[int, float], pos: int = 1) -> Update:
    message = ItemFeatures(ids=values.keys(), values=values.values(), pos=pos, time_us=pos * 10)
    return f"f|item_stats|{item}".encode(), message.SerializeToString()


def row(item: str, values: list[float], seq: int = 1) -> Update:
    return f"r|a|{item}".encode(), ItemRow(row=values, epoch=1, seq=seq, learned_up_to_us=5).SerializeToString()


@pytest.fixture
def writer(tmp_path: Path) -> TableWriter:
    return TableWriter(tmp_path / "table", HERE)


def test_what_is_written_is_read(writer: TableWriter) -> None:
    writer.apply([entry("x", 2.5, 7, ("shoes", "red")), features("x", {11: 0.5, 12: float("nan")}), row("x", [1, 2])])
    reader = writer.reader()
    slots = reader.slots(["x", "never"])
    assert slots.tolist() == [0, -1]
    items = reader.catalogue(slots)
    assert items["live"].tolist() == [1, 0]
    assert items["price"][0] == 2.5
    assert np.isnan(items["price"][1])
    assert reader.category_names(items["categories"][:, 0]) == ["shoes", ""]
    np.testing.assert_array_equal(items["content"][0], content_vector(tokens_of(["shoes", "red"], "", "x")))
    got = reader.features("item_stats", slots)
    column = reader.columns("item_stats")
    np.testing.assert_array_equal(got.values[:, [column[11], column[12]]], [[0.5, np.nan], [np.nan, np.nan]])
    assert (got.seq.tolist(), got.time_us.tolist()) == ([1, 0], [10, 0])
    rows = reader.rows("a", slots, 2)
    np.testing.assert_array_equal(rows.values, [[1, 2], [0, 0]])
    assert rows.present.tolist() == [True, False]
    assert reader.ids(np.array([0])) == ["x"]


def test_an_item_known_only_by_its_features_is_not_in_the_catalogue(writer: TableWriter) -> None:
    writer.apply([features("x", {11: 1.0})])
    reader = writer.reader()
    assert reader.catalogue(reader.slots(["x"]))["live"].tolist() == [0]


def test_a_deleted_item_keeps_its_slot_and_comes_back(writer: TableWriter) -> None:
    writer.apply([entry("x"), entry("y")])
    reader = writer.reader()
    writer.apply([(b"c|x", None)])
    assert reader.catalogue(reader.slots(["x", "y"]))["live"].tolist() == [0, 1]
    writer.apply([entry("x", 3.0)])
    assert reader.catalogue(reader.slots(["x"]))["price"].tolist() == [3.0]


def test_a_reader_sees_growth_new_features_and_new_categories(writer: TableWriter) -> None:
    writer.apply([entry("first"), features("first", {1: 1.0})])
    reader = writer.reader()
    many = [f"i{n}" for n in range(3 * FIRST_CAPACITY)]
    writer.apply([entry(item, categories=(f"c{n % 50}",)) for n, item in enumerate(many)])
    writer.apply([features("first", {feature: float(feature) for feature in range(40)}, pos=2)])
    slots = reader.slots([*many, "first"])
    assert slots.tolist() == [*range(1, 3 * FIRST_CAPACITY + 1), 0]
    assert reader.ids(slots) == [*many, "first"]
    assert reader.category_names(reader.catalogue(slots[:3])["categories"][:, 0]) == ["c0", "c1", "c2"]
    got = reader.features("item_stats", slots[-1:])
    assert got.values[0, reader.columns("item_stats")[39]] == 39.0


def test_a_reader_names_items_that_another_reader_found_in_the_grown_table(writer: TableWriter) -> None:
    writer.apply([entry("first")])
    early = writer.reader()
    many = [f"i{n}" for n in range(2 * FIRST_CAPACITY)]
    writer.apply([entry(item) for item in many])
    assert early.ids(writer.reader().slots(["first", many[-1]])) == ["first", many[-1]]


def test_a_feature_that_is_not_sent_any_more_is_missing_and_widening_keeps_the_rest(writer: TableWriter) -> None:
    writer.apply([features("x", {1: 1.0, 2: 2.0}), features("y", {1: 5.0})])
    writer.apply([features("x", {feature: 7.0 for feature in range(2, 40)}, pos=2)])
    reader = writer.reader()
    column = reader.columns("item_stats")
    values = reader.features("item_stats", reader.slots(["x", "y"])).values
    assert np.isnan(values[0, column[1]])
    assert values[0, column[39]] == 7.0
    assert values[1, column[1]] == 5.0
    assert np.isnan(values[1, column[39]])


def test_rows_of_another_length_replace_the_block(writer: TableWriter) -> None:
    writer.apply([row("x", [1, 2]), row("y", [3, 4])])
    writer.apply([row("x", [1, 2, 3], seq=2)])
    reader = writer.reader()
    rows = reader.rows("a", reader.slots(["x", "y"]), 3)
    assert rows.present.tolist() == [True, False]
    assert not reader.rows("a", reader.slots(["x"]), 2).present.any()


def test_the_last_value_of_a_key_in_a_batch_wins_and_stamps_show_what_changed(writer: TableWriter) -> None:
    writer.apply([row("x", [1, 1]), row("y", [1, 1]), row("x", [2, 2], seq=2)])
    reader = writer.reader()
    before = reader.stamps("row:a", 2)
    writer.apply([row("y", [5, 5], seq=3)])
    assert np.flatnonzero(reader.stamps("row:a", 2) != before).tolist() == reader.slots(["y"]).tolist()
    assert reader.rows("a", reader.slots(["x"]), 2).values.tolist() == [[2, 2]]


def test_records_that_are_none_of_ours_are_counted_and_skipped(writer: TableWriter) -> None:
    assert writer.apply([(b"z|x", b""), (b"c|", b""), (b"c|x", b"\xff\xff"), (b"\xff", None)]) == 1
    assert writer.skipped == 4


def test_a_restart_goes_on_and_another_log_or_boot_starts_anew(tmp_path: Path) -> None:
    first = TableWriter(tmp_path, HERE)
    first.apply([entry("x"), row("x", [1, 2])])
    first.applied({0: 7, 2: 0})
    again = TableWriter(tmp_path, HERE)
    assert again.positions == {0: 7, 2: 0} == again.reader().positions
    again.apply([entry("y")])
    reader = again.reader()
    assert reader.slots(["x", "y"]).tolist() == [0, 1]
    assert reader.rows("a", reader.slots(["x"]), 2).present.all()
    for other in (Origin("other", "boot"), Origin("log", "other")):
        fresh = TableWriter(tmp_path, other)
        assert (fresh.positions, fresh.reader().count) == ({}, 0)
        fresh.applied({0: 1})


def test_a_damaged_layout_starts_anew(tmp_path: Path) -> None:
    TableWriter(tmp_path, HERE).applied({0: 7})
    (tmp_path / "layout.json").write_text("{")
    assert TableWriter(tmp_path, HERE).positions == {}


def test_readers_wait_for_a_table(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError):
        ItemTable(tmp_path)


@pytest.mark.parametrize(("codec", "size"), [("float32", 64), ("half", 32), ("int8", 16)])
def test_rows_are_read_in_every_form_that_a_publisher_sends(writer: TableWriter, codec: str, size: int) -> None:
    rows = np.random.default_rng(1).normal(0, 0.5, (30, 16)).astype(np.float32)
    sent = []
    for at, message in enumerate(messages(rows, codec)):
        message.epoch, message.seq = 1, 3
        sent.append((f"r|a|i{at}".encode(), message.SerializeToString()))
        assert len(message.row) * 4 + len(message.half) + len(message.int8) == size
    writer.apply(sent)
    reader = writer.reader()
    found = reader.rows("a", reader.slots([f"i{at}" for at in range(30)]), 16)
    assert found.present.all()
    np.testing.assert_allclose(found.values, CODECS[codec](rows), atol=1e-6)
    assert writer.skipped == 0
