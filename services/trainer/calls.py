"""Settings that are one line of calls, such as `any(time(30), drift(adwin))` or `replay(2000, 8), ewc(10)`.

Only calls, names and numbers; nothing is evaluated (design D14). A table of *ways* says what may be written where.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Number:
    """An argument that is a number from `low` to `high`; without a default it must be written."""

    name: str
    low: float
    high: float
    default: float | None = None


@dataclass(frozen=True)
class Word:
    """An argument that is one of some names."""

    name: str
    choices: tuple[str, ...]
    default: str | None = None


@dataclass(frozen=True)
class Text:
    """An argument that is text in quotes, such as an address; it may not be empty."""

    name: str
    default: str | None = None


@dataclass(frozen=True)
class Way:
    """Something that may be called: what makes it, and its arguments."""

    make: Callable[..., Any]
    arguments: tuple[Number | Word | Text, ...] = field(default=())
    about: str = ""

    def usage(self, name: str) -> str:
        """How it is written.

        >>> Way(dict, (Number("seconds", 0, 9), Number("share", 0, 1, 0.5))).usage("time")
        'time(seconds, share=0.5)'
        """
        written = [a.name if a.default is None else f"{a.name}={a.default}" for a in self.arguments]
        return f"{name}({', '.join(written)})"


def nodes(text: str, example: str) -> list[ast.Call]:
    """The calls of a line, apart by commas. Raises ValueError, with a sentence, when it is something else."""
    try:
        body = ast.parse(f"({text.strip()},)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} cannot be read; an example: {example}") from None
    assert isinstance(body, ast.Tuple)
    return [_call(node, example) for node in body.elts]


def _call(node: ast.expr, example: str) -> ast.Call:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return node
    raise ValueError(f"{ast.unparse(node)} is no call, such as {example}")


def name_of(node: ast.Call) -> str:
    """What is called."""
    assert isinstance(node.func, ast.Name)
    return node.func.id


def made(node: ast.Call, ways: Mapping[str, Way], others: Sequence[str] = ()) -> Any:
    """What a call makes. Raises ValueError, with a sentence, for an unknown name or a bad argument."""
    name = name_of(node)
    if name not in ways:
        raise ValueError(f"{name} is none of {', '.join([*others, *ways])}")
    wanted, given = ways[name].arguments, node.args
    fewest = sum(argument.default is None for argument in wanted)
    if not fewest <= len(given) <= len(wanted):
        raise ValueError(f"{name} takes {fewest} to {len(wanted)} values, not {len(given)}")
    values = [_value(name, argument, node) for argument, node in zip(wanted, given, strict=False)]
    return ways[name].make(*values, *(argument.default for argument in wanted[len(given) :]))


def _value(name: str, argument: Number | Word | Text, node: ast.expr) -> float | str:
    if isinstance(argument, Text):
        text = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} needs text in quotes as {argument.name}, not {ast.unparse(node)}")
        return text
    if isinstance(argument, Word):
        found = node.id if isinstance(node, ast.Name) else ast.unparse(node)
        if found not in argument.choices:
            raise ValueError(f"{name} needs one of {', '.join(argument.choices)}, not {found}")
        return found
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not argument.low <= value <= argument.high:
        low, high = argument.low, argument.high
        raise ValueError(f"{name} needs a number from {low:g} to {high:g} as {argument.name}, not {ast.unparse(node)}")
    return value
