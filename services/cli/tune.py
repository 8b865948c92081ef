"""Settings of the trainer searched on an archive of examples."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli import output
from services.cli.options import Json
from services.common.errors import InvalidInput

_SPACE = "A setting to search: SETTING=LOW..HIGH (log scale) or SETTING=ONE|ANOTHER. Again for more."


def tune(
    examples: Annotated[Path, typer.Argument(help="Archive of a trainer: <store>/arms/<arm>/examples.")],
    space: Annotated[list[str] | None, typer.Option(help=_SPACE, show_default=False)] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of before counted.")] = 20,
    until: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share of the archive searched, the oldest.")] = 0.5,
    goal: Annotated[
        Literal["mrr", "ndcg_at_10", "group_auc", "log_loss"], typer.Option(help="Figure to make better.")
    ] = "mrr",
    journal: Annotated[Path, typer.Option(help="File of the trials; a search goes on from it.")] = Path("tune.journal"),
    as_json: Json = False,
) -> None:
    """Search settings on the older part of an archive; tell what they gain on the newer part, which it never saw."""
    if not examples.is_dir():
        raise InvalidInput("EXAMPLES", "missing", f"{examples} is no folder")
    from dataclasses import asdict

    from services.trainer.evaluation import tuning

    dimensions = [tuning.Dimension.parse(text) for text in space or tuning.DEFAULT_SPACE]
    with output.progress("trials", trials) as shown:
        found = tuning.tune(
            examples,
            dimensions,
            journal,
            trials,
            until,
            goal,
            progress=lambda done, best: shown.at(done, f"best {goal} {best:.4f}"),
        )
    gain = found.difference
    facts = {
        "trials": found.trials,
        f"{goal}, older part": found.earlier,
        f"{goal}, newer part": f"{found.later.value:.4f} (was {found.before.value:.4f})",
        "better by, 95 %": f"{gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}]",
        **{f"FRESHRANK_TRAINER_{name.upper()}": value for name, value in found.best.items()},
    }
    output.show(asdict(found), as_json, output.facts("Found", facts))
