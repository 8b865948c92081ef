"""User Behavior Insights in and out: what becomes of each document, and what is said of a bad one."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from freshrank.v1.events_pb2 import EventKind, Impression

from services.cli.history import events as history
from services.cli.history.ubi import read, read_queries
from services.cli.history.ubi_out import export
from services.common import sealed
from services.common.errors import InvalidInput
from services.common.keytable import writing
from services.common.records import FORGET, IMPRESSION, INTERACTIONS, TICK
from services.common.tokens import Tokens
from tests.cli.fakes import Ranking, run, serving

TOKENS = Tokens({1: b"k" * 16}, 1)
QUERY = {
    "query_id": "q1",
    "client_id": "ada",
    "user_query": "red shoes",
    "timestamp": "2026-01-02T10:00:00Z",
    "query_response_hit_ids": ["s1", "s2", "s3"],
}
CLICK = {
    "action_name": "click_through",
    "query_id": "q1",
    "client_id": "browser-7",
    "user_id": "ada",
    "session_id": "v1",
    "timestamp": "2026-01-02T10:00:05+01:00",
    "event_attributes": {"object": {"object_id": "s2"}, "position": {"ordinal": 2}},
}


def lines(path: Path, *documents: Any) -> Path:
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    return path


def changed(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**document, **fields}.items() if value is not ...}


def rows(tmp_path: Path, *events: Any, queries: tuple[Any, ...] = (QUERY,), **words: str) -> list[dict[str, Any]]:
    asked = read_queries(lines(tmp_path / "queries.jsonl", *queries))
    return read(lines(tmp_path / "events.jsonl", *events), asked, words).rows


def test_a_click_has_its_query_and_what_was_shown_with_it(tmp_path: Path) -> None:
    click, search = rows(tmp_path, CLICK)
    assert (click["user"], click["kind"], click["item"], click["session"]) == ("ada", "click", "s2", "v1")
    assert (click["query"], click["list"]) == ("red shoes", ["s1", "s2", "s3"])
    assert click["time"].isoformat() == "2026-01-02T10:00:05+01:00"
    assert (search["kind"], search["query"], search["user"]) == ("search", "red shoes", "ada")


def test_a_query_nobody_acted_on_is_an_impression(tmp_path: Path) -> None:
    found = rows(tmp_path, changed(CLICK, query_id=...))
    assert [row["kind"] for row in found] == ["click", "search", "impression"]
    assert found[2]["list"] == ["s1", "s2", "s3"]


@pytest.mark.parametrize(
    ("change", "user", "item"),
    [
        ({"user_id": ...}, "browser-7", "s2"),
        ({"user_id": ..., "event_attributes": {"user_id": 12, "object": {"object_id": 34}}}, "12", "34"),
        ({"user_id": ""}, "browser-7", "s2"),
    ],
)
def test_who_and_what(tmp_path: Path, change: dict[str, Any], user: str, item: str) -> None:
    click = rows(tmp_path, changed(CLICK, **change))[0]
    assert (click["user"], click["item"]) == (user, item)


def test_forms_of_files_that_mean_the_same(tmp_path: Path) -> None:
    plain = read(lines(tmp_path / "a", CLICK), {}).rows
    (tmp_path / "b").write_text(json.dumps([CLICK]))
    assert read(tmp_path / "b", {}).rows == plain
    assert read(lines(tmp_path / "c", {"_index": "ubi_events", "_source": CLICK}), {}).rows == plain
    (tmp_path / "d").write_text(f"\n{json.dumps(CLICK)}\n\n")
    assert read(tmp_path / "d", {}).rows == plain


def test_other_actions_are_counted_and_may_be_named(tmp_path: Path) -> None:
    hover = changed(CLICK, action_name="product_hover")
    assert read(lines(tmp_path / "e", hover, hover), {}).skipped == {"product_hover": 2}
    assert [row["kind"] for row in read(tmp_path / "e", {}, {"Product_Hover": "view"}).rows] == ["view", "view"]
    with pytest.raises(InvalidInput, match="none of our kinds"):
        read(tmp_path / "e", {}, {"product_hover": "hover"})


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (changed(CLICK, action_name=...), "action_name"),
        (changed(CLICK, timestamp=...), "timestamp"),
        (changed(CLICK, timestamp="yesterday"), "timestamp"),
        (changed(CLICK, user_id=..., client_id=...), "user_id"),
        (changed(CLICK, event_attributes=...), "object_id"),
        (changed(CLICK, event_attributes={"object": 3}), "event_attributes.object"),
        (changed(CLICK, event_attributes={"object": {"object_id": ["x"]}}), "object_id"),
        (changed(CLICK, session_id={"x": 1}), "session_id"),
        ("text", "document"),
    ],
)
def test_a_bad_event_is_named_with_its_line(tmp_path: Path, event: Any, named: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read(lines(tmp_path / "events.jsonl", CLICK, event), {})
    assert "line 2" in str(error.value)
    assert named in str(error.value)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(CLICK)}\n{{")
    with pytest.raises(InvalidInput, match=r"bad\.jsonl, line 2"):
        read(tmp_path / "bad.jsonl", {})
    with pytest.raises(InvalidInput, match="--queries"):
        read_queries(lines(tmp_path / "q", {"user_query": "x"}))
    with pytest.raises(InvalidInput, match="absent"):
        read(tmp_path / "absent", {})


def test_a_history_is_what_the_import_reads(tmp_path: Path) -> None:
    lines(tmp_path / "q", QUERY)
    lines(tmp_path / "e", CLICK, changed(CLICK, action_name="purchase"), changed(CLICK, action_name="on_search"))
    words = ["ubi", "history", "--events", str(tmp_path / "e"), "--queries", str(tmp_path / "q")]
    out = tmp_path / "history.parquet"
    ended = run(*words, "--out", str(out), "--json")
    assert ended.code == 0, ended.err
    past = list(history.read_history([out], {}, {}, "", 1_800_000_000_000_000))
    kinds = [row.kind for row in past]
    assert sorted(kinds) == sorted(
        [EventKind.EVENT_KIND_CLICK, EventKind.EVENT_KIND_PURCHASE, EventKind.EVENT_KIND_SEARCH]
    )
    click = next(row for row in past if row.kind == EventKind.EVENT_KIND_CLICK)
    assert click.shown == ("s1", "s2", "s3")
    assert click.event_id.startswith("ubi-")


def test_events_are_sent_and_refusals_told(tmp_path: Path) -> None:
    bad = changed(CLICK, event_attributes={"object": {"object_id": "bad"}})
    lines(tmp_path / "e", CLICK, bad)
    lines(tmp_path / "q", QUERY)
    ranking = Ranking()
    with serving(ranking=ranking) as address:
        files = ["--events", str(tmp_path / "e"), "--queries", str(tmp_path / "q")]
        ended = run("ubi", "send", *files, "--gateway", address, "--json")
    assert ended.code == 1
    assert ended.json == {"sent": 2, "refused": {"item_id: unknown": 1}, "skipped": {}}
    click, _, search = ranking.events
    assert (click.user_id, click.item_id, click.kind, click.event_time_us) == ("ada", "s2", 2, 1_767_344_405_000_000)
    assert (search.query, search.kind) == ("red shoes", EventKind.EVENT_KIND_SEARCH)


def archived(folder: Path, *found: dict[str, Any]) -> Path:
    folder.mkdir()
    columns = [{name: row.get(name) for name in INTERACTIONS.names} for row in found]
    pq.write_table(pa.Table.from_pylist(columns, INTERACTIONS), folder / "interactions-0-0000.parquet")
    return folder


def impression(user: str, time_us: int, query: str) -> tuple[dict[str, Any], str]:
    shown = Impression(impression_id=f"{time_us:032x}", user_id=user, query=query, release="r1")
    shown.items.add(item_id="s1", shown=True)
    shown.items.add(item_id="s2", shown=True)
    shown.items.add(item_id="s3", shown=False)
    row = {"kind": IMPRESSION, "user": user, "time_us": time_us, "impression": shown.SerializeToString()}
    return row, TOKENS.issue(shown.impression_id, user, time_us)


def test_the_archive_comes_out_and_goes_in_again(tmp_path: Path) -> None:
    at = 1_767_348_000_000_000
    search, token = impression("ada", at, "red shoes")
    home, other = impression("ada", at + 5_000_000, "")
    gone, lost = impression("bob", at, "secret")
    acts = [
        {"kind": 2, "user": "ada", "session": "v1", "item": "s2", "event_id": "e1", "time_us": at + 1, "token": token},
        {"kind": 2, "user": "ada", "item": "s1", "event_id": "e2", "time_us": at + 6_000_000, "token": other},
        {
            "kind": 4,
            "user": "ada",
            "item": "s2",
            "event_id": "e3",
            "time_us": at + 7_000_000,
            "value": 9.5,
            "token": "?",
        },
        {"kind": 2, "user": "bob", "item": "s2", "event_id": "e4", "time_us": at + 1, "token": lost},
        {"kind": FORGET, "user": "bob", "time_us": at + 10},
        {"kind": 1, "user": "bob", "item": "s3", "event_id": "e5", "time_us": at + 20},
        {"kind": TICK, "time_us": at + 30},
    ]
    folder = archived(tmp_path / "archive", search, home, gone, *acts)
    queries, events = tmp_path / "q", tmp_path / "e"
    written = export(folder, queries, events, "shop")
    assert (written.queries, written.events) == (1, 4)
    (query,) = map(json.loads, queries.read_text().splitlines())
    assert (query["user_query"], query["query_response_hit_ids"]) == ("red shoes", ["s1", "s2"])
    first, second, third, fourth = map(json.loads, events.read_text().splitlines())
    assert (first["query_id"], first["event_attributes"]["position"]) == (query["query_id"], {"ordinal": 2})
    assert second["query_id"] != query["query_id"]
    assert "query_id" not in third
    assert third["event_attributes"]["value"] == 9.5
    assert (fourth["client_id"], fourth["action_name"]) == ("bob", "view")  # after the wish, and so not part of it
    again = read(events, read_queries(queries)).rows
    assert [(row["user"], row["item"], row["kind"]) for row in again] == [
        ("ada", "s2", "click"),
        ("ada", "s1", "click"),
        ("ada", "s2", "purchase"),
        ("bob", "s3", "view"),
        ("ada", "", "search"),
    ]
    assert again[0]["list"] == ["s1", "s2"]


def test_a_sealed_archive_comes_out_without_those_who_have_no_key(tmp_path: Path) -> None:
    folder = tmp_path / "archive" / "interactions"
    keys = writing(tmp_path, folder, wanted=True)
    assert keys is not None
    rows = [{"kind": 2, "user": user, "item": "s1", "event_id": user, "time_us": 1} for user in ("ada", "bob")]
    table = pa.Table.from_pylist([{name: row.get(name) for name in INTERACTIONS.names} for row in rows], INTERACTIONS)
    table = table.append_column("log_offset", pa.array([0, 1])).append_column("log_index", pa.array([0, 0]))
    (folder / "0").mkdir(parents=True)
    pq.write_table(sealed.seal(table, 0, sealed.LOG, keys), folder / "0" / "0.parquet")
    keys.forget("bob", 0, (2, 0))
    for archive in (folder, folder / "0"):
        written = export(archive, tmp_path / "q", tmp_path / "e", "shop")
        assert (written.events, written.lost) == (1, 1)
        assert json.loads((tmp_path / "e").read_text())["client_id"] == "ada"


def test_an_empty_or_damaged_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--archive"):
        export(tmp_path, tmp_path / "q", tmp_path / "e", "shop")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidInput, match="torn"):
        export(tmp_path, tmp_path / "q", tmp_path / "e", "shop")
