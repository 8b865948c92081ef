"""Why the model scores a candidate as it does: integrated gradients (Sundararajan et al., 2017; captum).

Beside the gateway's occlusion, which takes one input away at a time: integrated gradients share the whole difference
between the score and that of a baseline among the inputs (completeness), along a straight line from one to the other.
The baseline of a number is its mean, of rows, content and history nothing.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from services.common.spec import ModelSpec
from services.trainer.groups import Group
from services.trainer.inputs import Block, NumericInput
from services.trainer.models.base import RankingModel

STEPS = 64
"""Points on the line."""

_NUMBERS = ("user", "item")
_HISTORY = ("history_content", "history_row")
_BLOCKS = {"user_row": ("user_row",), "content": ("content",), "row": ("row",), "history": _HISTORY}
"""Name -> the inputs that go from nothing to what they are."""


@dataclass(frozen=True)
class Attribution:
    """What one input adds to the logit of a head, against the baseline."""

    name: str
    value: float


def attribute(
    model: RankingModel, spec: ModelSpec, group: Group, which: int, place: int, head: int = 0, steps: int = STEPS
) -> tuple[list[Attribution], float]:
    """Attributions of candidate `place` of impression `which`, the largest first, and what they sum up to.

    The second value is logit(inputs) - logit(baseline); the sum of the attributions differs from it by the error of
    the steps alone.
    """
    captum = importlib.import_module("captum.attr")
    x = {name: torch.from_numpy(array[which : which + 1].copy()) for name, array in group.arrays.items()}
    x = {name: value[:, place : place + 1] if name in _PER_ITEM else value for name, value in x.items()}
    baseline = _baseline(model, x)
    names = [*_NUMBERS, *_INPUTS]

    def logit(*values: Tensor) -> Tensor:
        batch = len(values[0])
        rest = {name: value.expand(batch, *value.shape[1:]) for name, value in x.items()}
        out: Tensor = model.logits({**rest, **dict(zip(names, values, strict=True))})[:, 0, head]
        return out

    found = captum.IntegratedGradients(logit).attribute(
        tuple(_known(x[name], baseline[name]) for name in names),
        baselines=tuple(baseline[name] for name in names),
        n_steps=steps,
    )
    parts = _named(spec, dict(zip(names, found, strict=True)))
    with torch.no_grad():
        whole = logit(*(_known(x[n], baseline[n]) for n in names)) - logit(*(baseline[n] for n in names))
    return sorted(parts, key=lambda part: -abs(part.value)), float(whole)


_INPUTS = tuple(name for inputs in _BLOCKS.values() for name in inputs)
_PER_ITEM = frozenset({"item", "content", "row", "row_mask", "mask"})


def _known(value: Tensor, baseline: Tensor) -> Tensor:
    """A missing number is its baseline: there is nothing between the two."""
    return torch.where(torch.isnan(value), baseline, value)


def _baseline(model: RankingModel, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {name: torch.zeros_like(x[name]) for name in _INPUTS}
    for name, numeric in (("user", model.user_numeric), ("item", model.item_numeric)):
        out[name] = _means(numeric, x[name])
    return out


def _means(numeric: NumericInput, like: Tensor) -> Tensor:
    out = torch.zeros_like(like)
    for block in numeric.blocks:
        out[..., block.columns] = _center(block)
    return out


def _center(block: Block) -> Tensor:
    return block.center[0]


def _named(spec: ModelSpec, found: Mapping[str, Tensor]) -> list[Attribution]:
    refs = {"user": spec.user_features, "item": spec.item_features}
    out = [
        Attribution(f"{ref.view}:{ref.name}", float(found[side].reshape(-1)[k]))
        for side, features in refs.items()
        for k, ref in enumerate(features)
    ]
    return out + [Attribution(name, float(sum(found[i].sum() for i in inputs))) for name, inputs in _BLOCKS.items()]
