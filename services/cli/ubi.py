"""Queries and events of User Behavior Insights (UBI): in as a history or as live events, out of the archive."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json, connected
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from services.cli.history.ubi import Read
    from services.cli.settings import CliSettings

CALL = 500
"""Events in one call of Track."""

Events = Annotated[Path, typer.Option(help="UBI events: JSON lines or an array.")]
Queries = Annotated[Path | None, typer.Option(help="UBI queries, for words and for what was shown.")]
Kinds = Annotated[list[str] | None, typer.Option("--kinds", help="their action=ours, such as quick_view=view.")]


def group() -> typer.Typer:
    """The commands under `ubi`."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="User Behavior Insights (UBI).")
    app.command("history")(history)
    app.command("send")(send)
    app.command("export")(export)
    app.callback()(lambda: None)
    return app


def history(
    events: Events,
    out: Annotated[Path, typer.Option(help="Parquet file to write, for `import --interactions`.")],
    queries: Queries = None,
    kinds: Kinds = None,
    as_json: Json = False,
) -> None:
    """Write queries and events as a history that `freshrank import` reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = _read(events, queries, kinds)
    text, moment = pa.string(), pa.timestamp("us", "UTC")
    types = {"list": pa.list_(text), "time": moment}
    names = ("event", "user", "kind", "time", "item", "session", "query", "list")
    schema = pa.schema([(name, types.get(name, text)) for name in names])
    pq.write_table(pa.Table.from_pylist(found.rows, schema), out)
    _told({"rows": len(found.rows), "file": str(out)}, found, as_json)


@connected("gateway")
def send(
    settings: "CliSettings", events: Events, queries: Queries = None, kinds: Kinds = None, as_json: Json = False
) -> None:
    """Report events to a running system; sending them again changes nothing. What was shown is not sent."""
    from services.cli.grpc import shop

    found = _read(events, queries, kinds)
    acts = [row for row in found.rows if row["kind"] != "impression"]
    refused = Counter[str]()
    with shop(settings) as api, output.progress("events", len(acts)) as bar:
        for done, call in _calls(acts):
            refused.update(api.track(call))
            bar.at(done)
    _told({"sent": len(acts) - refused.total(), "refused": dict(refused)}, found, as_json)
    if refused:
        raise typer.Exit(NOT_AS_WANTED)


def export(
    archive: Annotated[Path, typer.Option(help="The cleaned log: <store>/archive/interactions.")],
    queries: Annotated[Path, typer.Option(help="File to write: a query a line.")],
    events: Annotated[Path, typer.Option(help="File to write: an event a line.")],
    application: Annotated[str, typer.Option(help="Name in each document.")] = "freshrank",
    as_json: Json = False,
) -> None:
    """Write searches and acts of the archive as UBI documents; bots and late events are among them."""
    from services.cli.history.ubi_out import export as written

    found = vars(written(archive, queries, events, application))
    output.show(found, as_json, output.facts("Written", found))


def _read(events: Path, queries: Path | None, kinds: Sequence[str] | None) -> "Read":
    from services.cli.history import ubi
    from services.cli.history.events import words_of

    return ubi.read(events, ubi.read_queries(queries) if queries else {}, words_of(kinds or []))


def _calls(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, list[Any]]]:
    """Events of one call, and how many are behind it."""
    from freshrank.v1.events_pb2 import Event

    from services.cli.history.events import KINDS

    for start in range(0, len(rows), CALL):
        part = rows[start : start + CALL]
        yield (
            start + len(part),
            [
                Event(
                    event_id=row["event"],
                    kind=KINDS[row["kind"]],  # type: ignore[arg-type]
                    user_id=row["user"],
                    session_id=row["session"],
                    item_id=row["item"],
                    query=row["query"] if row["kind"] == "search" else "",
                    event_time_us=round(row["time"].timestamp() * 1e6),
                    source="ubi",
                )
                for row in part
            ],
        )


def _told(found: dict[str, Any], read: "Read", as_json: bool) -> None:
    found |= {"skipped": dict(read.skipped)}
    output.show(found, as_json, output.facts("UBI", found))
