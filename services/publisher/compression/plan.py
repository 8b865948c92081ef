"""What a person asks for in one line, such as `prune(0.5), int8_static`: ways of compression, one after the other."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto

from services.common.spec import Arrays
from services.publisher.compression.halves import halves
from services.publisher.compression.int8 import dynamic, static
from services.publisher.compression.low_rank import low_rank
from services.publisher.compression.prune import prune
from services.publisher.compression.units import drop_units

_STEP = re.compile(r"([a-z0-9_]+)(?:\(\s*([0-9]*\.?[0-9]+)\s*\))?")

Way = Callable[[ModelProto, float, Arrays], ModelProto]
"""A graph, its number (NaN where it takes none) and recorded requests -> a graph with the same inputs and output."""

SHARES: dict[str, Way] = {
    "prune": lambda model, share, _: prune(model, share),
    "drop_units": drop_units,
    "low_rank": lambda model, energy, _: low_rank(model, energy),
}
"""Ways with a number in (0, 1): what goes, or the energy that stays."""
LAST: dict[str, Way] = {
    "fp16": lambda model, _, __: halves(model),
    "int8_dynamic": lambda model, _, __: dynamic(model),
    "int8_static": lambda model, _, inputs: static(model, inputs),
}
"""Ways that change how numbers are stored: at most one, and nothing after it."""


@dataclass(frozen=True)
class Step:
    """One way with its number."""

    way: str
    number: float = float("nan")

    def __str__(self) -> str:
        return f"{self.way}({self.number:g})" if self.way in SHARES else self.way

    def run(self, model: ModelProto, inputs: Arrays) -> ModelProto:
        """The graph after it."""
        return (SHARES | LAST)[self.way](model, self.number, inputs)


def parse(text: str) -> tuple[Step, ...]:
    """Read a plan; empty = no compression. Raises ValueError naming the step that is wrong.

    >>> [str(step) for step in parse("prune(0.5), int8_static")]
    ['prune(0.5)', 'int8_static']
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    steps = tuple(_step(part) for part in parts)
    for step in steps[:-1]:
        if step.way in LAST:
            raise ValueError(f"{step} must be the last step")
    return steps


def _step(text: str) -> Step:
    match = _STEP.fullmatch(text)
    way = match[1] if match else ""
    if match is None or way not in SHARES | LAST:
        raise ValueError(f"{text!r} is none of {', '.join(SHARES | LAST)}")
    if (match[2] is not None) != (way in SHARES):
        takes = "a number, such as (0.5)" if way in SHARES else "no number"
        raise ValueError(f"{way} takes {takes}")
    if way in LAST:
        return Step(way)
    number = float(match[2])
    if not 0 < number < 1:
        raise ValueError(f"{text}: the number must lie between 0 and 1")
    return Step(way, number)
