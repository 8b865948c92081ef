"""Text encoders and rerankers of Search: shown, and taken back. All through the gateway's admin API."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import ADMIN, Actor, Json, Reason, connected, who
from services.cli.output import Table
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from freshrank.v1.models_pb2 import Encoder

    from services.cli.settings import CliSettings


def group() -> typer.Typer:
    """The group `encoders`."""
    found = typer.Typer(
        cls=Commands,
        help="Show the text encoders and rerankers of Search, and go back to the one before.",
        no_args_is_help=True,
    )
    found.command("list")(list_encoders)
    found.command("rollback")(rollback)
    return found


@connected(*ADMIN)
def list_encoders(settings: "CliSettings", as_json: Json = False) -> None:
    """All encoders and rerankers that were decided on, newest first."""
    from services.cli.grpc import operator

    with operator(settings) as api:
        _show([described(encoder) for encoder in api.encoders()], as_json)


@connected(*ADMIN)
def rollback(
    settings: "CliSettings",
    reranker: Annotated[bool, typer.Option("--reranker", help="The reranker before, not the encoder.")] = False,
    actor: Actor = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Search by the encoder before this one again; its vectors are all there."""
    kind = "reranker" if reranker else "encoder"
    from services.cli.grpc import operator

    with operator(settings) as api:
        before = [described(encoder) for encoder in api.encoders()]
        after = [described(encoder) for encoder in api.rollback_encoder(who(actor), reason, reranker)]
    _show(after, as_json)
    if serving(before, kind) == serving(after, kind):
        output.say(f"{serving(after, kind) or 'nothing'} still serves: there may be no {kind} before it")
        raise typer.Exit(NOT_AS_WANTED)


def serving(encoders: list[dict[str, Any]], kind: str = "encoder") -> str:
    """The one of a kind that serves; empty = none.

    >>> kind = {"kind": "encoder"}
    >>> serving([kind | {"encoder": "t2", "state": "refused"}, kind | {"encoder": "t1", "state": "serving"}])
    't1'
    """
    return next((str(e["encoder"]) for e in encoders if e["state"] == "serving" and e["kind"] == kind), "")


def described(encoder: "Encoder") -> dict[str, Any]:
    """An encoder as plain data."""
    from datetime import UTC, datetime

    decided = datetime.fromtimestamp(encoder.decided_us / 1e6, UTC).isoformat(timespec="seconds")
    return {
        "encoder": encoder.encoder,
        "kind": encoder.kind or "encoder",
        "state": encoder.state,
        "slot": encoder.slot,
        "epoch": encoder.epoch,
        "decided": decided,
        "reason": encoder.reason,
    }


def _show(found: list[dict[str, Any]], as_json: bool) -> None:
    columns = ("encoder", "kind", "state", "slot", "decided", "reason")
    output.show(found, as_json, Table("Encoders", columns, [[output.text(e[c]) for c in columns] for e in found]))
