"""What a command that fails says and ends with: one sentence on standard error, and a number that scripts can use.

====  ==========================================================================
0     done
1     not as wanted: asked for and refused, not ready, not held
2     bad input: the sentence names the option, file or field
3     a part does not answer; the same command can succeed later
====  ==========================================================================
"""

from typing import Any

import typer
from typer.core import TyperGroup

from services.common.errors import FreshrankError, InvalidInput, NotFound, TemporaryError

DONE, NOT_AS_WANTED, BAD_INPUT, NO_ANSWER = 0, 1, 2, 3

EXTRAS = {
    "grpc": "client",
    "google.rpc": "client",
    "feast": "features",
    "pandas": "demo",
    "redis": "features",
}
"""Packages that only some commands need -> the extra that brings them."""


def exit_code(error: FreshrankError) -> int:
    """Number of a failure, by what to do about it.

    >>> exit_code(TemporaryError("away")), exit_code(NotFound("release")), exit_code(FreshrankError("refused"))
    (3, 2, 1)
    """
    if isinstance(error, InvalidInput | NotFound):
        return BAD_INPUT
    return NO_ANSWER if isinstance(error, TemporaryError) else NOT_AS_WANTED


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
