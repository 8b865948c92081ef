"""The text model by hand: what the system serves, made from any sentence-transformers folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json

_MODEL = "Folder as sentence-transformers writes it; 'default' is the packaged all-MiniLM-L6-v2."


def group() -> typer.Typer:
    """The commands under `text`."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="The text encoder.")
    app.command("export")(export)
    app.callback()(lambda: None)
    return app


def export(
    out: Annotated[Path, typer.Option(help="Folder to write; what is there is replaced.")],
    model: Annotated[str, typer.Option(help=_MODEL)] = "default",
    int8: Annotated[bool, typer.Option("--int8", help="8-bit weights; what that loses is measured.")] = False,
    max_tokens: Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut.")] = 64,
    as_json: Json = False,
) -> None:
    """Write an encoder as Triton and the gateway read it, checked against the model it is made from."""
    from services.trainer.text import export as exports
    from services.trainer.text.load import load

    about = exports.export(load(model, max_tokens), out, int8)
    found = asdict(about) | {"bytes": (out / "model.onnx").stat().st_size}
    shown = {name: value for name, value in found.items() if name != "files"}
    output.show(found, as_json, output.facts(str(out), shown))
