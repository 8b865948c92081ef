"""The model store: whether the file system under it does what Freshrank relies on."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json
from services.common.exits import NOT_AS_WANTED


def group() -> typer.Typer:
    """The group `store`."""
    found = typer.Typer(cls=Commands, help="Check the volume that the model store lies on.", no_args_is_help=True)
    found.callback()(lambda: None)  # a group, although it has one command
    found.command("check")(check)
    return found


def check(
    store: Annotated[
        Path, typer.Argument(metavar="[STORE]", envvar="FRESHRANK_STORE", help="Folder of the model store.")
    ] = Path("store"),
    beside: Annotated[
        str,
        typer.Option(help="Name that two checks on two nodes share; each waits for the other."),
    ] = "",
    free: Annotated[float, typer.Option(help="GiB that must be free.", min=0)] = 1.0,
    within: Annotated[float, typer.Option(help="Seconds for one process to see what another did.", min=0.1)] = 10.0,
    wait: Annotated[float, typer.Option(help="Seconds for the other check to come.", min=1)] = 300.0,
    as_json: Json = False,
) -> None:
    """Prove that a store renames, syncs, locks and appends as Freshrank relies on. Ends with 1 when it does not.

    It works in a folder of its own, which it takes away again; a running installation does not notice.
    """
    import re

    from services.cli.store_checks import check_store, described, passed
    from services.common.errors import InvalidInput

    if not store.is_dir():
        raise InvalidInput("STORE", "absent", f"{store} is no folder")
    if not re.fullmatch(r"[A-Za-z0-9.-]{0,100}", beside):
        raise InvalidInput("--beside", "malformed", "up to 100 letters, digits, dots and dashes")
    found = check_store(store, beside, free_gib=free, within_s=within, come_s=wait)
    rows = [[o.check, "ok" if o.ok else "failed", f"{o.ms:.1f}", o.sentence] for o in found]
    data = {"store": str(store), "ok": passed(found), "checks": described(found)}
    output.show(data, as_json, output.Table(f"Store {store}", ("check", "is", "ms", "why"), rows))
    if not passed(found):
        raise typer.Exit(NOT_AS_WANTED)
