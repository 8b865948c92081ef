"""Feature definitions: what a changed repository would do, and doing it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json, connected
from services.cli.output import Table
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    from services.cli.settings import CliSettings
    from services.features.commands import Change


def group() -> typer.Typer:
    """The group `features`."""
    found = typer.Typer(cls=Commands, help="Compare and apply feature definitions.", no_args_is_help=True)
    found.command("plan")(plan)
    found.command("apply")(apply)
    return found


@connected("feature_repo")
def plan(settings: "CliSettings", as_json: Json = False) -> None:
    """Show what `apply` would change; nothing is changed."""
    from services.features import commands

    _show("Would change", commands.plan(_repository(settings)), as_json)


@connected("feature_repo")
def apply(settings: "CliSettings", as_json: Json = False) -> None:
    """Check the definitions and store them; running services pick them up within a minute, without a restart."""
    from services.features import commands

    _show("Changed", commands.apply(_repository(settings)), as_json)


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
    rows = [[change.action, change.path, output.text(change.detail)] for change in changes]
    found = [{"action": c.action, "path": c.path, "detail": c.detail} for c in changes]
    output.show(found, as_json, Table(f"{title}: {len(changes)}", ("action", "what", "how"), rows))
