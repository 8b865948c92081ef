"""Between the weights that an update starts from and those that it learned."""

from collections.abc import Mapping

import torch
from torch import Tensor

from services.trainer.sequence.learner import Learner
from services.trainer.sequence.ways import State

ROWS = "rows.values"


def weights(learner: Learner, known: int) -> State:
    """Copies of the dense weights and of the first `known` rows, by the names of `Learner.state`."""
    state = learner.state()
    return {name: value for name, value in state.items() if name.startswith("model.")} | {ROWS: state[ROWS][:known]}


def mixed(old: Mapping[str, Tensor], new: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> State:
    """old + share · (new - old) of each; a share of 0 gives the old and 1 the new, bit for bit.

    `shares` by name, as wide as what they weigh or to be spread over it. Rows that `old` lacks are as in `new`.
    """
    out = {}
    for name, before in old.items():
        after = new[name]
        share = shares[name].expand_as(before)
        out[name] = torch.cat([torch.lerp(before, after[: len(before)], share), after[len(before) :]])
    return out


def put(learner: Learner, state: Mapping[str, Tensor]) -> None:
    """Write weights into the learner where they are; rows that `state` lacks stay."""
    with torch.no_grad():
        for name, weight in learner.model.named_parameters():
            weight.copy_(state[f"model.{name}"])
        learner.rows.values[: len(state[ROWS])] = state[ROWS]
