"""Triggers as one line of text: `any(time(30), all(volume(1000), drift(adwin)))`."""

import ast
from collections.abc import Callable, Mapping

from services.trainer import calls
from services.trainer.calls import Number, Way, Word
from services.trainer.drift import DETECTORS, DriftTrigger
from services.trainer.shift import ShiftTrigger
from services.trainer.triggers import AtLeast, CostTrigger, PerformanceTrigger, TimeTrigger, Trigger, VolumeTrigger

_EXAMPLE = "any(time(30), drift(adwin))"

_SEVERAL: Mapping[str, Callable[[int], int]] = {
    "any": lambda n: 1,
    "all": lambda n: n,
    "majority": lambda n: n // 2 + 1,
}
"""How many of so many triggers are needed."""

WAYS: Mapping[str, Way] = {
    "time": Way(TimeTrigger, (Number("seconds", 0.1, 31_536_000),)),
    "volume": Way(lambda examples: VolumeTrigger(int(examples)), (Number("examples", 1, 1e12),)),
    "batch": Way(lambda: VolumeTrigger(1)),
    "cost": Way(CostTrigger, (Number("seconds", 0, 86_400),)),
    "performance": Way(
        lambda worse, window: PerformanceTrigger(worse, int(window)),
        (Number("worse", 0.001, 10), Number("impressions", 10, 1e6, 500)),
    ),
    "shift": Way(
        lambda bound, window: ShiftTrigger(bound, int(window)),
        (Number("bound", 0.02, 10), Number("impressions", 500, 1e5, 2_000)),
    ),
    "drift": Way(DriftTrigger, (Word("detector", tuple(DETECTORS)),)),
}


def parse(text: str) -> Trigger:
    """The trigger that a line describes. Raises ValueError, with a sentence, for what is none."""
    found = calls.nodes(text, _EXAMPLE)
    if len(found) != 1:
        raise ValueError(f"{text!r} is {len(found)} triggers; say any(...) or all(...) of them")
    return _trigger(found[0])


def _trigger(node: ast.expr) -> Trigger:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        raise ValueError(f"{ast.unparse(node)} is no call, such as {_EXAMPLE}")
    name = node.func.id
    if name in _SEVERAL:
        if not node.args:
            raise ValueError(f"{name}() needs a trigger at least")
        return AtLeast(_SEVERAL[name](len(node.args)), [_trigger(argument) for argument in node.args])
    trigger: Trigger = calls.made(node, WAYS, tuple(_SEVERAL))
    return trigger
