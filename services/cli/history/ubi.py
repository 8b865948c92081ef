"""Queries and events in the words of User Behavior Insights (UBI 1.3) -> our interactions.

Files hold JSON documents: one a line, or one array; search engines' `{"_source": {...}}` is looked into. An event's
user is its user_id, else event_attributes.user_id, else its client_id; its item is event_attributes.object.object_id.
What was shown with it are the hits of its query. Times without a zone are UTC.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from services.cli.history.events import KINDS
from services.common.errors import InvalidInput

ACTIONS: Mapping[str, str] = {
    "click": "click",
    "click_through": "click",
    "item_click": "click",
    "product_click": "click",
    "view": "view",
    "watch": "view",
    "item_view": "view",
    "product_view": "view",
    "add_to_cart": "add_to_cart",
    "purchase": "purchase",
    "search": "search",
    "on_search": "search",
}
"""Action names -> our kinds; `--kinds` adds the shop's own. Others are passed over and counted."""

_CUT = 256


@dataclass(frozen=True)
class Searched:
    """One UBI query."""

    query_id: str
    text: str
    user: str
    time: datetime | None
    hits: tuple[str, ...]


@dataclass
class Read:
    """What files held, as rows of our import."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Action names that mean nothing here, by how often they came."""


def documents(path: Path, option: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON documents of a file with their line (of an array: place), from 1. Raises InvalidInput naming both."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(option, "unreadable", f"{path.name}: {error}") from error
    if text.lstrip()[:1] == "[":
        try:
            found = list(enumerate(json.loads(text), 1))
        except ValueError as error:
            raise InvalidInput(option, "malformed", f"{path.name}: {error}") from error
    else:
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                found.append((number, _parsed(path, option, number, line)))
    for number, document in found:
        inner = document.get("_source", document) if isinstance(document, dict) else document
        if not isinstance(inner, dict):
            raise _fault(option, path, number, "document", "malformed", "is no object")
        yield number, inner


def read_queries(path: Path) -> dict[str, Searched]:
    """Queries by their id. Raises InvalidInput."""
    found = {}
    for number, document in documents(path, "--queries"):
        where = (path, number)
        query_id = _text(document, "query_id", "--queries", where, required=True)
        hits = document.get("query_response_hit_ids") or []
        if not isinstance(hits, list):
            raise _fault("--queries", *where, "query_response_hit_ids", "malformed", "is no list")
        found[query_id] = Searched(
            query_id,
            _text(document, "user_query", "--queries", where),
            _user(document, "--queries", where),
            _moment(document, "--queries", where, required=False),
            tuple(dict.fromkeys(str(hit) for hit in hits)),
        )
    return found


def read(events: Path, queries: Mapping[str, Searched], words: Mapping[str, str] | None = None) -> Read:
    """Rows of the events, each with what its query showed; then a search, and what it showed, of each query.

    `words`: further action names -> our kinds. Raises InvalidInput naming file, line and field.
    """
    actions = {**ACTIONS, **{name.lower(): kind for name, kind in (words or {}).items()}}
    for name, ours in actions.items():
        if ours not in KINDS:
            raise InvalidInput("--kinds", "unknown_kind", f"{name}={ours}: {ours!r} is none of our kinds")
    out, answered = Read(), Counter[str]()
    people: dict[str, str] = {}
    for number, document in documents(events, "--events"):
        where = (events, number)
        name = _text(document, "action_name", "--events", where, required=True)
        kind = actions.get(name.lower())
        query_id = _text(document, "query_id", "--events", where)
        user = _user(document, "--events", where)
        people.setdefault(query_id, user)
        if kind is None:
            out.skipped[name] += 1
            continue
        row = _row(document, where, kind, user, queries.get(query_id))
        if row["item"] and row["list"]:
            answered[query_id] += 1
        out.rows.append(row)
    _add_queries(out, queries, people, answered)
    return out


def _row(
    document: Mapping[str, Any], where: tuple[Path, int], kind: str, user: str, query: Searched | None
) -> dict[str, Any]:
    if not user:
        raise _fault("--events", *where, "user_id", "missing_value", "neither user_id nor client_id says who it was")
    time, item = _moment(document, "--events", where, required=True), _item(document, where)
    text = query.text if query else ""
    if kind == "search":
        text = text or _text(document, "message", "--events", where)
    elif not item:
        raise _fault("--events", *where, "event_attributes.object.object_id", "missing_value", "only a search has none")
    session = _text(document, "session_id", "--events", where)
    shown = list(query.hits) if query and kind != "search" and item in query.hits else []
    # The same document gives the same id: what is read twice counts once.
    mark = json.dumps(document, sort_keys=True).encode()
    return {
        "event": f"ubi-{blake2b(mark, digest_size=12).hexdigest()}",
        "user": user,
        "kind": kind,
        "time": time,
        "item": item if kind != "search" else "",
        "session": session,
        "query": text,
        "list": shown,
    }


def _add_queries(
    out: Read, queries: Mapping[str, Searched], people: Mapping[str, str], answered: Mapping[str, int]
) -> None:
    told = {(row["user"], row["query"]) for row in out.rows if row["kind"] == "search"}
    for query in queries.values():
        user = query.user or people.get(query.query_id, "")
        if not user or query.time is None:
            out.skipped["query without user or time"] += 1
            continue
        row = {"user": user, "time": query.time, "item": "", "session": "", "query": query.text, "list": []}
        if query.text and (user, query.text) not in told:
            out.rows.append(row | {"event": f"ubi-q-{query.query_id}"[:_CUT], "kind": "search"})
        if query.hits and not answered.get(query.query_id):
            shown = {"event": f"ubi-i-{query.query_id}"[:_CUT], "kind": "impression", "list": list(query.hits)}
            out.rows.append(row | shown)


def _item(document: Mapping[str, Any], where: tuple[Path, int]) -> str:
    attributes = document.get("event_attributes") or {}
    thing = attributes.get("object") if isinstance(attributes, dict) else None
    if thing is None:
        return ""
    if not isinstance(thing, dict):
        raise _fault("--events", *where, "event_attributes.object", "malformed", "is no object")
    found = thing.get("object_id")
    if found is None:
        return ""
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise _fault("--events", *where, "event_attributes.object.object_id", "malformed", "is neither text nor number")
    return str(found)


def _user(document: Mapping[str, Any], option: str, where: tuple[Path, int]) -> str:
    attributes = document.get("event_attributes")
    inner = attributes.get("user_id") if isinstance(attributes, dict) else None
    named = _text(document, "user_id", option, where) or (str(inner) if inner else "")
    return named or _text(document, "client_id", option, where)


def _text(document: Mapping[str, Any], name: str, option: str, where: tuple[Path, int], required: bool = False) -> str:
    found = document.get(name)
    if found is None or found == "":
        if required:
            raise _fault(option, *where, name, "missing_value", "is required")
        return ""
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise _fault(option, *where, name, "malformed", "is neither text nor number")
    return str(found)


def _moment(document: Mapping[str, Any], option: str, where: tuple[Path, int], required: bool) -> datetime | None:
    text = _text(document, "timestamp", option, where, required)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise _fault(option, *where, "timestamp", "malformed", f"{text!r} is no ISO 8601 time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _parsed(path: Path, option: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise InvalidInput(option, "malformed", f"{path.name}, line {number}: {error}") from error


def _fault(option: str, path: Path, number: int, name: str, reason: str, detail: str) -> InvalidInput:
    return InvalidInput(option, reason, f"{path.name}, line {number}, {name}: {detail}")
