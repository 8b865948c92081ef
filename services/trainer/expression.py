"""Triggers as one line of text: `any(time(30), all(volume(1000), drift(adwin)))`."""

import ast
from collections.abc import Callable, Mapping, Sequence

from services.trainer.drift import DETECTORS, DriftTrigger
from services.trainer.triggers import AtLeast, CostTrigger, PerformanceTrigger, TimeTrigger, Trigger, VolumeTrigger

_SEVERAL: Mapping[str, Callable[[int], int]] = {
    "any": lambda n: 1,
    "all": lambda n: n,
    "majority": lambda n: n // 2 + 1,
}
"""How many of so many triggers are needed."""

_WORDS = "any, all, majority, time, volume, batch, cost, performance, drift"


def parse(text: str) -> Trigger:
    """The trigger that a line describes. Raises ValueError, with a sentence, for what is none."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is no trigger, such as any(time(30), drift(adwin))") from None
    return _trigger(tree)


def _trigger(node: ast.expr) -> Trigger:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        raise ValueError(f"{ast.unparse(node)} is no call of {_WORDS}")
    name, arguments = node.func.id, node.args
    if name in _SEVERAL:
        if not arguments:
            raise ValueError(f"{name}() needs a trigger at least")
        return AtLeast(_SEVERAL[name](len(arguments)), [_trigger(argument) for argument in arguments])
    if name not in _PLAIN:
        raise ValueError(f"{name} is none of {_WORDS}")
    make, fewest, most = _PLAIN[name]
    if not fewest <= len(arguments) <= most:
        raise ValueError(f"{name} takes {fewest} to {most} values, not {len(arguments)}")
    return make(arguments)


def _number(name: str, node: ast.expr, low: float, high: float) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} needs a number from {low:g} to {high:g}, not {ast.unparse(node)}")
    return value


def _time(values: Sequence[ast.expr]) -> Trigger:
    return TimeTrigger(_number("time", values[0], 0.1, 86_400))


def _volume(values: Sequence[ast.expr]) -> Trigger:
    return VolumeTrigger(int(_number("volume", values[0], 1, 1e12)))


def _batch(values: Sequence[ast.expr]) -> Trigger:
    return VolumeTrigger(1)


def _cost(values: Sequence[ast.expr]) -> Trigger:
    return CostTrigger(_number("cost", values[0], 0, 86_400))


def _performance(values: Sequence[ast.expr]) -> Trigger:
    window = int(_number("performance", values[1], 10, 1e6)) if len(values) > 1 else 500
    return PerformanceTrigger(_number("performance", values[0], 0.001, 10), window)


def _drift(values: Sequence[ast.expr]) -> Trigger:
    name = values[0].id if isinstance(values[0], ast.Name) else ast.unparse(values[0])
    if name not in DETECTORS:
        raise ValueError(f"drift needs one of {', '.join(DETECTORS)}, not {name}")
    return DriftTrigger(name)


_PLAIN: Mapping[str, tuple[Callable[[Sequence[ast.expr]], Trigger], int, int]] = {
    "time": (_time, 1, 1),
    "volume": (_volume, 1, 1),
    "batch": (_batch, 0, 0),
    "cost": (_cost, 1, 1),
    "performance": (_performance, 1, 2),
    "drift": (_drift, 1, 1),
}
