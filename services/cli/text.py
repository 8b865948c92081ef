"""The text model by hand: what the system serves, made from any sentence-transformers folder."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from freshrank.v1.ranking_pb2 import Item

    from services.text.folder import Encoder

Model = Annotated[str, typer.Option(help="Folder as sentence-transformers has it; 'default': all-MiniLM-L6-v2.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit weights; what that loses is measured.")]
MaxTokens = Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut.")]


def group() -> typer.Typer:
    """The commands under `text`."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="The text encoder.")
    app.command("export")(export)
    app.command("release")(release)
    app.command("pretrain")(pretrain)
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


def pretrain(
    catalogue: Annotated[Path, typer.Option(help="Parquet or CSV with item, title, categories, brand, description.")],
    out: Annotated[Path, typer.Option(help="Folder to write, as sentence-transformers has it.")],
    model: Model = "default",
    columns: Annotated[
        list[str] | None, typer.Option("--map-catalogue", help="Columns of other names, such as item=sku.")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, max=100, help="Times that every text is read.")] = 1.0,
    max_tokens: MaxTokens = 64,
    as_json: Json = False,
) -> None:
    """Let an encoder read the catalogue before it learns from searches: words are hidden, and it names them.

    What is written is a model for `--model` and for the trainer. Whether it is better is for its searches to tell.
    """
    from services.cli.history.catalogue import COLUMNS, read_catalogue
    from services.cli.history.files import mapping_of
    from services.common.clock import WallClock
    from services.trainer.text import mlm
    from services.trainer.text.load import load

    mapping = mapping_of("--map-catalogue", columns or [], COLUMNS)
    items = read_catalogue(catalogue, mapping, WallClock().now_us()).items
    texts, text = _texts(items), load(model, max_tokens)
    with output.progress("texts", round(epochs * len(texts))) as bar:
        losses = mlm.pretrain(text, texts, mlm.Plan(epochs), bar.at)
    mlm.write(text, model, out)
    tenth = max(1, len(losses) // 10)
    found: dict[str, float] = {
        "texts": len(texts),
        "steps": len(losses),
        "loss_first": round(sum(losses[:tenth]) / tenth, 4),
        "loss_last": round(sum(losses[-tenth:]) / tenth, 4),
    }
    output.show(found, as_json, output.facts(str(out), found))


def _texts(items: "Sequence[Item]") -> list[str]:
    """What encoders read of each, once."""
    from freshrank.v1.models_pb2 import CatalogueItem

    from services.text.item import item_text

    known = (
        CatalogueItem(title=one.title, brand=one.brand, categories=one.categories, description=one.description)
        for one in items
    )
    return [text for text in dict.fromkeys(map(item_text, known)) if text]


def _show(out: Path, about: "Encoder", as_json: bool) -> None:
    found = {"folder": str(out)} | asdict(about) | {"bytes": (out / "model.onnx").stat().st_size}
    shown = {name: value for name, value in found.items() if name not in ("files", "folder")}
    output.show(found, as_json, output.facts(str(out), shown))
