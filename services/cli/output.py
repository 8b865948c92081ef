"""What commands show: tables for people, tab-separated text for pipes, JSON for machines; progress beside it."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

import typer

QUIET_S = 5.0
"""Seconds between two lines of progress where no bar can be drawn."""


@dataclass(frozen=True)
class Table:
    """Rows under names, with a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)


def facts(title: str, values: Mapping[str, object]) -> Table:
    """Name and value, a row each."""
    return Table(title, ("what", "value"), [(name, text(value)) for name, value in values.items()])


def text(value: object) -> str:
    """A value for people.

    >>> text(None), text(0.12345), text(True), text(["a", "b"]), text("")
    ('-', '0.1235', 'yes', 'a, b', '-')
    """
    if value is None or value == "" or isinstance(value, float) and math.isnan(value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(text(entry) for entry in value) or "-"
    if isinstance(value, Mapping):
        return text([f"{name} {text(entry)}" for name, entry in value.items()])
    return f"{value:,}" if isinstance(value, int) else str(value)


def show(data: Any, as_json: bool, *tables: Table) -> None:
    """Print `data` as one JSON document, or the tables."""
    if as_json:
        typer.echo(json.dumps(plain(data), indent=2, default=str, allow_nan=False))
    elif sys.stdout.isatty():
        _draw(tables)
    else:
        typer.echo("\n\n".join(_lines(table) for table in tables))


def plain(value: Any) -> Any:
    """The same with null where JSON has no number.

    >>> plain({"auc": float("nan"), "n": [1, float("inf")]})
    {'auc': None, 'n': [1, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def say(sentence: str) -> None:
    """A remark beside the answer, on standard error."""
    typer.echo(sentence, err=True)


def _lines(table: Table) -> str:
    rows = ["\t".join(row) for row in (table.columns, *table.rows)]
    return "\n".join([f"# {table.title}", *rows])


def _draw(tables: Sequence[Table]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Drawn

    console = Console(highlight=False)
    for table in tables:
        drawn = Drawn(title=escape(table.title), title_justify="left", box=SIMPLE, pad_edge=False)
        for place, name in enumerate(table.columns):
            # Names are typed again by people, so they are not cut; the last column is words and may go on below.
            drawn.add_column(escape(name), no_wrap=place < len(table.columns) - 1)
        for row in table.rows:
            drawn.add_row(*map(escape, row))
        console.print(drawn)


class Progress(Protocol):
    """How far a long work is."""

    def at(self, done: float, remark: str = "") -> None:
        """So much of the total is done."""
        ...


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Progress]:
    """A bar on standard error, or a line every few seconds where that is no terminal. `total` None: not known."""
    if not sys.stderr.isatty():
        lines = _Lines(title, total)
        yield lines
        lines.end()
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(
        *columns, bars.TimeElapsedColumn(), bars.TextColumn("{task.fields[remark]}"), console=Console(stderr=True)
    ) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, remark=""))


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def at(self, done: float, remark: str = "") -> None:
        self._bar.update(self._task, completed=done, remark=remark)


class _Lines:
    def __init__(self, title: str, total: float | None) -> None:
        self._title, self._total = title, total
        self._done, self._remark, self._began = 0.0, "", monotonic()
        self._said_s = self._began

    def at(self, done: float, remark: str = "") -> None:
        self._done, self._remark = done, remark
        if monotonic() - self._said_s >= QUIET_S:
            self._said_s = monotonic()
            self._say()

    def end(self) -> None:
        self._remark = f"{monotonic() - self._began:.1f} s"
        self._say()

    def _say(self) -> None:
        of = "" if self._total is None else f" of {self._total:,.0f}"
        say(f"{self._title}: {self._done:,.0f}{of} {self._remark}".rstrip())
