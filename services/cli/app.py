"""The command put together. What a command needs is imported when it runs, so `--help` is quick."""

import logging
from typing import Annotated

import typer

from services.cli import (
    archive,
    arms,
    bring,
    distil,
    encoders,
    evaluate,
    features,
    federate,
    operate,
    presets,
    releases,
    replay,
    reshard,
    retrain,
    start,
    status,
    store,
    text,
    tune,
    ubi,
)
from services.cli.failures import Commands

HELP = """Freshrank keeps a shop's rankings fresh.

Exit codes: 0 done, 1 not as wanted, 2 bad input (the sentence names the option), 3 a part does not answer.
"""


def build() -> typer.Typer:
    """All commands under one name."""
    app = typer.Typer(cls=Commands, name="freshrank", no_args_is_help=True, rich_markup_mode=None, help=HELP)
    everything = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("demo", context_settings=everything)(start.demo)
    app.command("replay")(replay.replay)
    app.command("import")(bring.bring)
    app.command("status")(status.status)
    app.command("freeze")(operate.freeze)
    app.command("unfreeze")(operate.unfreeze)
    app.add_typer(releases.group(), name="releases")
    app.add_typer(encoders.group(), name="encoders")
    app.add_typer(arms.group(), name="arms")
    app.command("explain")(operate.explain)
    app.command("forget")(operate.forget)
    app.add_typer(features.group(), name="features")
    app.command("evaluate")(evaluate.evaluate)
    app.command("tune")(tune.tune)
    app.command("retrain")(retrain.retrain)
    app.add_typer(federate.group(), name="federate")
    app.command("distil")(distil.distil)
    app.add_typer(text.group(), name="text")
    app.add_typer(store.group(), name="store")
    app.add_typer(archive.group(), name="archive")
    app.add_typer(ubi.group(), name="ubi")
    app.command("reshard")(reshard.reshard)
    app.command("presets")(presets.presets)
    app.command("topics")(start.topics)
    app.callback()(freshrank)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("freshrank"))
        raise typer.Exit


def freshrank(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Keep quiet what libraries remark: a command says itself what matters."""
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("services.trainer.archive").setLevel(logging.WARNING)  # groups that nobody can open
