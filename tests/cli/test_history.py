"""Files of a shop's past: what is read, and the sentence for every fault."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from freshrank.v1.events_pb2 import EventKind

from services.cli.history.catalogue import read_catalogue
from services.cli.history.events import SHOWN, read_history
from services.common.errors import InvalidInput
from tests.cli.past import NOW, SECOND, T0, csv_file, history, row


def test_rows_of_all_files_come_in_time_order(tmp_path: Path) -> None:
    one = csv_file(tmp_path / "a.csv", [row(time=str(T0 + 2 * SECOND)), row(time=str(T0))])
    other = csv_file(tmp_path / "b.csv", [row(time=str(T0 + SECOND), user="bob")])
    found = read_history([one, other], {}, {}, "", NOW)
    assert [(i.user, i.time_us - T0) for i in found] == [("ada", 0), ("bob", SECOND), ("ada", 2 * SECOND)]
    assert (len(found), found.first_us, found.last_us) == (3, T0, T0 + 2 * SECOND)


def test_ids_that_look_like_numbers_stay_what_they_are(tmp_path: Path) -> None:
    (found,) = history(tmp_path, row(user="007", item="1e5"))
    assert (found.user, found.item) == ("007", "1e5")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("1760000000", id="seconds"),
        pytest.param("1760000000000", id="milliseconds"),
        pytest.param("1760000000000000", id="microseconds"),
        pytest.param("1760000000000000000", id="nanoseconds"),
        pytest.param("2025-10-09T08:53:20", id="iso"),
        pytest.param("2025-10-09 08:53:20", id="space"),
        pytest.param("2025-10-09T08:53:20Z", id="zulu"),
        pytest.param("2025-10-09T10:53:20+02:00", id="offset"),
    ],
)
def test_times_are_understood_as_people_write_them(written: str, tmp_path: Path) -> None:
    (found,) = history(tmp_path, row(time=written))
    assert found.time_us == T0


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    columns = {
        "customer": pa.array([17], pa.int32()),
        "sku": pa.array(["s-1"]).dictionary_encode(),
        "at": pa.array([T0 * 1000], pa.timestamp("ns", "UTC")),
        "seen": pa.array([["s-1", "s-2"]]),
        "price": pa.array([19.9], pa.float32()),
    }
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.table(columns), path)
    mapping = {"user": "customer", "item": "sku", "time": "at", "list": "seen", "value": "price"}
    (found,) = read_history([path], mapping, {}, "purchase", NOW)
    assert (found.user, found.item, found.time_us, found.shown) == ("17", "s-1", T0, ("s-1", "s-2"))
    assert (found.kind, found.numbers[0]) == (EventKind.EVENT_KIND_PURCHASE, pytest.approx(19.9))


def test_the_shops_own_words_for_kinds_are_taken(tmp_path: Path) -> None:
    found = history(tmp_path, row(kind="Detail"), row(kind="CART"), kinds={"detail": "view"})
    assert [i.kind for i in found] == [EventKind.EVENT_KIND_VIEW, EventKind.EVENT_KIND_ADD_TO_CART]


def test_a_list_without_an_action_is_an_impression(tmp_path: Path) -> None:
    (found,) = history(tmp_path, row(kind="impression", item="", list="a|b | c"))
    assert (found.kind, found.shown) == (SHOWN, ("a", "b", "c"))


def test_the_same_file_gives_the_same_event_ids_and_own_ones_are_kept(tmp_path: Path) -> None:
    ids = [[i.event_id for i in history(tmp_path, row(), row(time="2025-10-10"))] for _ in range(2)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2
    (own,) = history(tmp_path, row(event="e-7"))
    assert own.event_id == "e-7"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"user": ""}, "clicks.csv, row 2, column user: is empty"),
        ({"user": "x" * 129}, "row 2, column user: has more than 128 characters"),
        ({"user": "a\tb"}, "row 2, column user: 'a\\tb' cannot be printed"),
        ({"user": " ada"}, "row 2, column user: ' ada' has spaces around it"),
        ({"item": ""}, "row 2, column item: only a search goes without an item"),
        ({"kind": "wink"}, "row 2, column kind: 'wink' is none of"),
        ({"kind": ""}, "row 2, column kind: is empty"),
        ({"time": ""}, "row 2, column time: is empty"),
        ({"time": "yesterday"}, "row 2, column time: 'yesterday' is no time"),
        ({"time": "1999-12-31"}, "row 2, column time: 1999-12-31 lies before 2000 or in the future"),
        ({"time": "2031-01-01"}, "row 2, column time: 2031-01-01 lies before 2000 or in the future"),
        ({"value": "cheap"}, "row 2, column value: 'cheap' is no number"),
        ({"value": "-3"}, "row 2, column value: -3 must lie between 0 and 1e+09"),
        ({"kind": "rate"}, "row 2, column rating: a rating needs its value"),
        ({"kind": "rate", "rating": "77"}, "row 2, column rating: 77 must lie between 0 and 10"),
        ({"kind": "play"}, "row 2, column play_seconds: a play needs its seconds or its share"),
        ({"kind": "play", "play_share": "1.5"}, "row 2, column play_share: 1.5 must lie between 0 and 1"),
        ({"kind": "search", "item": ""}, "row 2, column query: a search needs a query or an item"),
        ({"kind": "impression", "item": ""}, "row 2, column list: an impression shows a list"),
        ({"list": "a|b"}, "row 2, column list: does not hold the item 'item-1'"),
        ({"list": "item-1|a|a"}, "row 2, column list: holds an item twice, or more than 1,000"),
        ({"region": "x" * 65}, "row 2, column region: has more than 64 characters"),
    ],
)
def test_a_wrong_value_names_file_row_and_column(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    blank = dict.fromkeys(wrong.keys() - row().keys(), "")
    with pytest.raises(InvalidInput) as caught:
        history(tmp_path, row(**blank), row(**wrong))
    assert caught.value.field == "--interactions"
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("clicks.csv", None, "No such file"),
        ("clicks.xlsx", "", "is none of .parquet, .csv"),
        ("clicks.parquet", "no parquet", "clicks.parquet: "),
        ("clicks.csv", "", "clicks.csv: "),
        ("clicks.csv", "user,item,kind,time\n", "clicks.csv has no rows"),
        (
            "clicks.csv",
            "user,item,kind\nada,shoe,click\n",
            "clicks.csv has no column time (time); it has user, item, kind",
        ),
        ("clicks.csv", "user,item,time\nada,shoe,5\n", "clicks.csv has no column kind"),
        ("clicks.csv", "user,item,kind,time\nada,shoe\n", "clicks.csv: "),
    ],
)
def test_a_wrong_file_is_named(name: str, content: str | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInput) as caught:
        read_history([tmp_path / name], {}, {}, "", NOW)
    assert caught.value.field == "--interactions"
    assert says in str(caught.value)


def test_a_mapped_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "clicks.csv", [row()])
    with pytest.raises(InvalidInput, match=r"no column revenue \(value\)"):
        read_history([path], {"value": "revenue"}, {}, "", NOW)


def test_a_catalogue_becomes_items(tmp_path: Path) -> None:
    rows = [
        {"item": "a", "title": "Red shoe", "categories": "shoes|sale", "brand": "x", "price": "9.5", "stock": "3"},
        {"item": "b", "title": "", "categories": "", "brand": "", "price": "", "stock": ""},
    ]
    first, second = read_catalogue(csv_file(tmp_path / "items.csv", rows), {}, NOW).items
    assert (first.title, list(first.categories), first.price, first.stock) == ("Red shoe", ["shoes", "sale"], 9.5, 3)
    assert (second.item_id, second.HasField("price"), second.HasField("stock")) == ("b", False, False)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"item": "a"}, "items.csv, row 2, column item: 'a' comes a second time"),
        ({"item": ""}, "row 2, column item: is empty"),
        ({"price": "-1"}, "row 2, column price: -1 must lie between"),
        ({"stock": "many"}, "row 2, column stock: 'many' is no number"),
        ({"categories": "|".join("abcdefghijklmnopq")}, "row 2, column categories: has more than 16"),
    ],
)
def test_a_wrong_item_names_file_row_and_column(wrong: dict[str, str], says: str, tmp_path: Path) -> None:
    good = {"item": "a", "categories": "shoes", "price": "1", "stock": "1"}
    path = csv_file(tmp_path / "items.csv", [good, {**good, "item": "b", **wrong}])
    with pytest.raises(InvalidInput) as caught:
        read_catalogue(path, {}, NOW)
    assert caught.value.field == "--catalogue"
    assert says in str(caught.value)


def test_what_the_gateway_refuses_is_told_in_terms_of_the_file(tmp_path: Path) -> None:
    shelf = read_catalogue(csv_file(tmp_path / "items.csv", [{"item": "a"}, {"item": "b"}]), {}, NOW)
    found = shelf.blame(InvalidInput("items[1].price", "out_of_range", "is too dear"), 500)
    assert str(found) == "--catalogue: items.csv, row 502, column price: is too dear"
