"""The text model by hand: what the system serves, made from any sentence-transformers folder."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json

if TYPE_CHECKING:
    from services.text.folder import Encoder

Model = Annotated[str, typer.Option(help="Folder as sentence-transformers has it; 'default': all-MiniLM-L6-v2.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit weights; what that loses is measured.")]
MaxTokens = Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut.")]


def group() -> typer.Typer:
    """The commands under `text`."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="The text encoder.")
    app.command("export")(export)
    app.command("release")(release)
    return app


def export(
    out: Annotated[Path, typer.Option(help="Folder to write; what is there is replaced.")],
    model: Model = "default",
    int8: Int8 = False,
    max_tokens: MaxTokens = 64,
    as_json: Json = False,
) -> None:
    """Write an encoder as Triton and the gateway read it, checked against the model it is made from."""
    from services.trainer.text import export as exports
    from services.trainer.text.load import load

    _show(out, exports.export(load(model, max_tokens), out, int8), as_json)


def release(
    store: Annotated[Path, typer.Option(help="Model store of the services.")],
    model: Model = "default",
    int8: Int8 = False,
    max_tokens: MaxTokens = 64,
    as_json: Json = False,
) -> None:
    """Put an encoder into the store by hand: the first one, or one made elsewhere. It is judged like any other."""
    from services.common.clock import WallClock
    from services.text.names import encoder_id, incoming
    from services.trainer.text import export as exports
    from services.trainer.text.load import load
    from services.trainer.text.model import Text

    text, now_us = load(model, max_tokens), WallClock().now_us()
    out = incoming(store) / encoder_id(now_us, text.about.source)
    dated = Text(text.model, text.tokens, replace(text.about, created_us=now_us))
    _show(out, exports.export(dated, out, int8), as_json)


def _show(out: Path, about: "Encoder", as_json: bool) -> None:
    found = {"folder": str(out)} | asdict(about) | {"bytes": (out / "model.onnx").stat().st_size}
    shown = {name: value for name, value in found.items() if name not in ("files", "folder")}
    output.show(found, as_json, output.facts(str(out), shown))
