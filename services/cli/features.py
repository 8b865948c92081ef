"""Feature definitions: what a changed repository would do, and doing it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json, connected
from services.cli.output import Table
from services.common.errors import InvalidInput
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from services.cli.settings import CliSettings
    from services.features.commands import Change


def group() -> typer.Typer:
    """The group `features`."""
    found = typer.Typer(cls=Commands, help="Compare and apply feature definitions.", no_args_is_help=True)
    found.command("plan")(plan)
    found.command("apply")(apply)
    return found


Safe = Annotated[
    bool, typer.Option("--fail-on-destructive", help="End with 1 when values would be lost; nothing is changed then.")
]


@connected("feature_repo")
def plan(settings: "CliSettings", safe: Safe = False, as_json: Json = False) -> None:
    """Show what `apply` would change; nothing is changed."""
    from services.features import commands

    changes = commands.plan(_repository(settings))
    _show("Would change", changes, as_json)
    if safe:
        _refuse(changes)


@connected("feature_repo")
def apply(settings: "CliSettings", safe: Safe = False, as_json: Json = False) -> None:
    """Check the definitions and store them; running services pick them up within a minute, without a restart."""
    from services.features import commands

    repository = _repository(settings)
    if safe:
        _refuse(commands.plan(repository))
    _show("Changed", commands.apply(repository), as_json)


def _refuse(changes: "list[Change]") -> None:
    lost = [f"{change.path} {change.action}" for change in changes if change.destructive]
    if lost:
        output.say(f"values would be lost: {', '.join(lost)}")
        raise typer.Exit(NOT_AS_WANTED)


def _repository(settings: "CliSettings") -> Path:
    """The folder; with the addresses of a demo's stores in the environment, where feature_store.yaml looks."""
    if settings.folder is not None:
        from services.demo.runfile import read_environment

        os.environ.update(read_environment(settings.folder))
    folder = settings.feature_repo
    if not (folder / "feature_store.yaml").is_file():
        raise InvalidInput("--repo", "not_found", f"{folder} holds no feature_store.yaml")
    return folder


def _show(title: str, changes: "list[Change]", as_json: bool) -> None:
    rows = [[c.action, c.path, output.text(c.detail), "lost" if c.destructive else ""] for c in changes]
    found = [asdict(change) for change in changes]
    output.show(found, as_json, Table(f"{title}: {len(changes)}", ("action", "what", "how", "values"), rows))
