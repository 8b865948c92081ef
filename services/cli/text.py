"""The text model by hand: what the system serves, made from any sentence-transformers folder."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from freshrank.v1.ranking_pb2 import Item

    from services.text.folder import Encoder

Model = Annotated[str, typer.Option(help="Folder as sentence-transformers has it; 'default': all-MiniLM-L6-v2.")]
Int8 = Annotated[bool, typer.Option("--int8", help="8-bit weights; what that loses is measured.")]
Pairs = Annotated[
    bool, typer.Option("--reranker", help="The folder is a cross-encoder's: it reads a query and an item together.")
]
MaxTokens = Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut.")]


def group() -> typer.Typer:
    """The commands under `text`."""
    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Text encoders, and rerankers.")
    app.command("export")(export)
    app.command("release")(release)
    app.command("pretrain")(pretrain)
    return app


def export(
    out: Annotated[Path, typer.Option(help="Folder to write; what is there is replaced.")],
    model: Model = "default",
    int8: Int8 = False,
    max_tokens: MaxTokens = 64,
    reranker: Pairs = False,
    as_json: Json = False,
) -> None:
    """Write a model as Triton and the gateway read it, checked against the one it is made from."""
    _, write = _made(model, max_tokens, reranker)
    _show(out, write(out, int8, 0), as_json)


def release(
    store: Annotated[Path, typer.Option(help="Model store of the services.")],
    model: Model = "default",
    int8: Int8 = False,
    max_tokens: MaxTokens = 64,
    reranker: Pairs = False,
    as_json: Json = False,
) -> None:
    """Put an encoder or a reranker into the store by hand. It is judged like any other."""
    from services.common.clock import WallClock
    from services.text.names import encoder_id, incoming

    about, write = _made(model, max_tokens, reranker)
    now_us = WallClock().now_us()
    out = incoming(store, about.kind) / encoder_id(now_us, about.source, about.kind)
    _show(out, write(out, int8, now_us), as_json)


def _made(model: str, max_tokens: int, reranker: bool) -> "tuple[Encoder, Callable[[Path, bool, int], Encoder]]":
    """What a folder holds, and how it is written as of a time."""
    if reranker:
        from services.trainer.text import reranker as rerankers

        made = rerankers.load(model, max_tokens)
        return made.about, lambda out, int8, us: rerankers.export(made.dated(us), out, int8)
    from services.trainer.text import export as exports
    from services.trainer.text.load import load

    text = load(model, max_tokens)
    return text.about, lambda out, int8, us: exports.export(text.dated(us), out, int8)


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
