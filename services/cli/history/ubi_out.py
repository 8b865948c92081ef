"""The archive of the cleaned log, without forgotten shoppers, as User Behavior Insights (UBI 1.3) has it.

Searches are queries, acts are events.

A query's id is that of the impression that answered it, so that of an act is in its attribution token. Acts that answer
no search have no query_id.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from freshrank.v1.events_pb2 import EventKind, Impression

from services.common.errors import CorruptState, InvalidInput
from services.common.keytable import KeyTable, is_sealed, reading
from services.common.records import FORGET, IMPRESSION
from services.common.tokens import impression_of

ACTIONS = {value: name.removeprefix("EVENT_KIND_").lower() for name, value in EventKind.items() if value}
"""Our kinds of event as action names; a search is `search`."""

_COLUMNS = (
    "kind", "time_us", "user", "session", "item", "event_id", "query", "token", "value", "quantity", "rating",
    "impression",
)  # fmt: skip


@dataclass
class Written:
    """How many documents."""

    queries: int = 0
    events: int = 0
    lost: int = 0
    """Groups of a sealed archive that no key opens: of forgotten shoppers."""


def export(archive: Path, queries: Path, events: Path, application: str) -> Written:
    """Write a line of JSON for each search that was answered, and for each act; `archive`: folder of Parquet files.

    Raises InvalidInput when it holds none.
    """
    files = sorted(archive.rglob("*.parquet"))
    if not files:
        raise InvalidInput("--archive", "missing_value", f"{archive}: holds no Parquet file")
    written, places = Written(), dict[str, dict[str, int]]()
    with ExitStack() as held:
        keys = held.enter_context(reading(archive))
        forgotten = _forgotten(files, keys)
        to_queries, to_events = (held.enter_context(path.open("w", encoding="utf-8")) for path in (queries, events))
        for row in _rows(files, _COLUMNS, keys, written):
            if row["time_us"] < forgotten.get(row["user"], 0):
                continue
            if row["kind"] == IMPRESSION:
                document = _query(row, application, places)
                if document is not None:
                    to_queries.write(json.dumps(document) + "\n")
                    written.queries += 1
            elif row["kind"] in ACTIONS:
                to_events.write(json.dumps(_event(row, application, places)) + "\n")
                written.events += 1
    return written


def _forgotten(files: Sequence[Path], keys: KeyTable | None) -> dict[str, int]:
    """Until when everything of a shopper who was forgotten is left out."""
    out: dict[str, int] = {}
    for row in _rows(files, ("kind", "time_us", "user"), keys, Written()):
        if row["kind"] == FORGET:
            out[row["user"]] = max(out.get(row["user"], 0), row["time_us"])
    return out


def _rows(
    files: Sequence[Path], columns: Sequence[str], keys: KeyTable | None, written: Written
) -> Iterator[dict[str, Any]]:
    for path in files:
        try:
            if is_sealed(pq.read_schema(path)):
                from services.common import sealed

                found = sealed.read(path, sealed.LOG, keys)
                written.lost += found.lost
                table = found.rows.select(columns)
            else:
                table = pq.read_table(path, columns=list(columns))
        except (OSError, ValueError, KeyError, CorruptState) as error:  # pyarrow's own errors are kinds of these
            raise InvalidInput("--archive", "unreadable", f"{path.name}: {error}") from error
        yield from table.to_pylist()


def _query(row: Mapping[str, Any], application: str, places: dict[str, dict[str, int]]) -> dict[str, Any] | None:
    impression = Impression.FromString(row["impression"] or b"")
    shown = [item.item_id for item in impression.items if item.shown]
    places[impression.impression_id] = {item: place for place, item in enumerate(shown, 1)}
    if not impression.query:
        return None
    return {
        "application": application,
        "query_id": impression.impression_id,
        "client_id": row["user"],
        "user_query": impression.query,
        "timestamp": _iso(row["time_us"]),
        "query_response_id": impression.impression_id,
        "query_response_hit_ids": shown,
        "query_attributes": {"release": impression.release, "arm": impression.arm, "page": impression.page},
    }


def _event(row: Mapping[str, Any], application: str, places: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    impression = _claimed(row["token"])
    out: dict[str, Any] = {
        "application": application,
        "action_name": ACTIONS[row["kind"]],
        "timestamp": _iso(row["time_us"]),
        "client_id": row["user"],
        "user_id": row["user"],
        "event_attributes": {"event_id": row["event_id"]},
    }
    if impression:
        out["query_id"] = impression
    if row["session"]:
        out["session_id"] = row["session"]
    if row["kind"] == EventKind.EVENT_KIND_SEARCH and row["query"]:
        out |= {"message_type": "QUERY", "message": row["query"]}
    attributes = out["event_attributes"]
    if row["item"]:
        attributes["object"] = {"object_id": row["item"], "object_id_type": "product"}
        place = places.get(impression, {}).get(row["item"])
        if place is not None:
            attributes["position"] = {"ordinal": place}
    attributes |= {name: row[name] for name in ("value", "quantity", "rating") if row[name] is not None}
    return out


def _claimed(token: str | None) -> str:
    """Impression that a token names; one that is none was logged all the same."""
    try:
        return impression_of(token) if token else ""
    except InvalidInput:
        return ""


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
