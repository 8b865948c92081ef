"""What operators ask for: freeze and unfreeze, forget, explain. All through the gateway."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.options import ADMIN, GATEWAY, Actor, Json, Reason, connected, who
from services.cli.output import Table
from services.common.errors import InvalidInput
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from freshrank.v1.models_pb2 import Freeze

    from services.cli.settings import CliSettings

ROW_GATE = "row gate"
"""Actor of a freeze that nobody asked for: the row gate has stopped pushes (see the publisher's routes)."""


class Part(StrEnum):
    """What can be frozen."""

    ROWS = "rows"
    RELEASES = "releases"
    LEARNING = "learning"


Parts = Annotated[list[Part], typer.Argument(help="One or more.")]


@connected(*ADMIN)
def freeze(
    settings: "CliSettings",
    parts: Parts,
    actor: Actor = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Stop pushing rows, routing to releases, or learning, until `unfreeze`."""
    _switch(settings, parts, True, actor, reason, as_json)


@connected(*ADMIN)
def unfreeze(
    settings: "CliSettings",
    parts: Parts,
    actor: Actor = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Take a freeze back."""
    _switch(settings, parts, False, actor, reason, as_json)


def _switch(settings: "CliSettings", parts: list[Part], on: bool, actor: str, reason: str, as_json: bool) -> None:
    from freshrank.v1.models_pb2 import Freeze

    from services.cli.grpc import operator

    with operator(settings) as api:
        now = asked_for(api.status().freeze)
        wanted = Freeze(rows=now.rows, releases=now.releases, learning=now.learning, actor=who(actor), reason=reason)
        for part in parts:
            setattr(wanted, part.value, on)
        found = api.freeze(wanted)
    output.show(frozen(found), as_json, output.facts("Frozen", frozen(found)))
    if any(getattr(found, part.value) != on for part in parts):
        by = f": {found.actor} says {found.reason!r}" if found.actor == ROW_GATE else " yet; `freshrank status` shows"
        output.say(f"{'freeze' if on else 'unfreeze'} {', '.join(parts)} does not show{by}")
        raise typer.Exit(NOT_AS_WANTED)


def asked_for(shown: "Freeze") -> "Freeze":
    """The switch as people have set it: a stop by the row gate shows as frozen rows, but is not theirs."""
    from freshrank.v1.models_pb2 import Freeze

    rows = shown.rows and shown.actor != ROW_GATE
    return Freeze(rows=rows, releases=shown.releases, learning=shown.learning, actor=shown.actor, reason=shown.reason)


def frozen(freeze: "Freeze") -> dict[str, Any]:
    """The switch as plain data."""
    names = ("rows", "releases", "learning", "actor", "reason")
    return {name: getattr(freeze, name) for name in names}


@connected(*ADMIN)
def forget(
    settings: "CliSettings",
    user: Annotated[str, typer.Argument(help="Whose events, features and row go.")],
    before: Annotated[str, typer.Option(help="Only what is older: ISO 8601, UTC without an offset.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget a shopper. Cannot be undone."""
    before_us = moment_us("--before", before) if before else 0
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidInput("--yes", "missing_field", "is needed where nobody can be asked")
        typer.confirm(f"Forget everything about {user}?", abort=True, err=True)
    from services.cli.grpc import operator

    with operator(settings) as api:
        place = api.forget(user, before_us)
    found = {"partition": place.partition, "offset": place.offset}
    output.show(found, as_json, output.facts("The wish lies on events.in; every service obeys it in log order", found))


def moment_us(option: str, text: str) -> int:
    """Microseconds since 1970 of an ISO time. Raises InvalidInput naming the option.

    >>> moment_us("--before", "1970-01-01T00:00:01")
    1000000
    """
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(option, "malformed", f"{text!r} is no ISO 8601 time, such as 2026-05-01T12:00") from error
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


@connected(*GATEWAY)
def explain(
    settings: "CliSettings",
    token_of_answer: Annotated[str, typer.Argument(metavar="TOKEN", help="attribution_token of a recent answer.")],
    item: Annotated[str, typer.Argument(metavar="[ITEM]", help="The first result when left out.")] = "",
    top: Annotated[int, typer.Option(min=1, max=1000, help="Contributions to show.")] = 10,
    as_json: Json = False,
) -> None:
    """Say what moved the score of one item of a past answer."""
    from services.cli.grpc import shop

    with shop(settings) as api:
        answer = api.explain(token_of_answer, item, top)
    names = ("feature", "value", "contribution", "age_ms")
    rows = [{name: getattr(c, name) for name in names} for c in answer.contributions]
    head = {name: getattr(answer, name) for name in ("item_id", "score", "served_score", "release")}
    if answer.query:
        asked = {told.category: told.probability for told in answer.categories}
        head |= {"query": answer.query, "matched_words": list(answer.matched_words), "categories": asked}
    cells = [[output.text(v) for v in {**r, "age_ms": _age(r["age_ms"])}.values()] for r in rows]
    title = f"{answer.item_id}: {answer.score:.4f} (served {answer.served_score:.4f}) by {answer.release}"
    table = Table(title, ("feature", "value", "score minus score without", "age"), cells)
    output.show({**head, "contributions": rows}, as_json, table)


def _age(ms: float) -> str:
    if ms < 0:
        return "-"
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 86_400_000 else f"{ms / 86_400_000:.1f} d"
