"""What a strategy is made of beside its plain step: parts, each a technique of its own.

A part is asked at fixed points of an update, in the order in which it was written. What it remembers is in named
vectors as long as the dense weights (carried over by feature when the features change), in counters, and in
remembered examples: all of it goes into checkpoints, so that a restart goes on bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.common.spec import ModelSpec
from services.trainer.groups import Floats, Group, Tables
from services.trainer.models.base import RankingModel
from services.trainer.strategies.base import Encode, Update
from services.trainer.strategies.losses import GroupLoss
from services.trainer.strategies.optimisers import DenseOptimiser


@dataclass(frozen=True)
class Seen:
    """One group going through the model."""

    group: Group
    inputs: Mapping[str, Tensor]
    """With rows that gradients reach."""
    logits: Tensor
    """[B, N, heads]."""
    loss: Tensor
    """The group's own, summed."""
    teacher: Floats | None
    """The champion's probabilities [B, N, heads]."""
    ranker: RankingModel
    objective: GroupLoss
    chance: np.random.Generator


@dataclass(frozen=True)
class Moment:
    """What there is when a release is made."""

    dense: DenseOptimiser
    held: Sequence[Group]
    """Finished impressions that were kept out of learning, on the rows as they are."""
    loss_of: Callable[[Tensor, Sequence[Group]], float]
    """Mean log-loss of groups under a vector of dense weights, on the rows as they are."""
    encode: Encode
    step: Callable[[Sequence[Group]], None]
    """Learn groups once more."""
    tables: Tables
    number: int
    """Of the last step: what chance comes from."""
    deep: bool = True
    """Time to learn at length; a maintenance policy may leave it for another release."""


class Part:
    """Does nothing at any point; a technique overrides what it needs."""

    name = ""
    """In checkpoints; two parts of a strategy have different ones."""

    def __init__(self) -> None:
        self.vectors: dict[str, Tensor] = {}
        """By kind; each as long as the dense weights."""
        self.counters: dict[str, float] = {}

    def begin(self, dense: DenseOptimiser) -> None:
        """The dense weights are there for the first time."""

    def more(self, update: Update) -> Sequence[Group]:
        """Groups that are learned beside those of the step."""
        return ()

    def term(self, seen: Seen) -> Tensor | None:
        """Something to add to the loss of a group."""
        return None

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """The gradient is there: look at it or change it, in place."""

    def stepped(self, dense: DenseOptimiser) -> None:
        """The dense weights have moved."""

    def learned(self, update: Update, tables: Tables) -> None:
        """The update was made: what it brought may be looked at for the next one."""

    def released(self, moment: Moment) -> None:
        """A release is about to be made."""

    def received(self, dense: DenseOptimiser) -> None:
        """The dense weights are now those of a federation's round, which begins."""

    def forget(self, user: str, before_us: int) -> None:
        """Drop what is remembered of a shopper."""

    def adapt(self, spec: ModelSpec) -> None:
        """The features are others now; vectors have been carried over."""

    def state(self) -> dict[str, Tensor]:
        """What is remembered beside vectors and counters."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The way back."""


def packed(part: Part, dense: DenseOptimiser) -> dict[str, Tensor]:
    """Everything of a part by name: `vector.<kind>.<parameter>`, `counter.<name>`, `own.<name>`."""
    out = {f"vector.{kind}.{n}": v for kind, vector in part.vectors.items() for n, v in dense.named(vector).items()}
    out |= {f"counter.{name}": torch.tensor(value, dtype=torch.float64) for name, value in part.counters.items()}
    return out | {f"own.{name}": value for name, value in part.state().items()}


def unpack(part: Part, dense: DenseOptimiser, state: Mapping[str, Tensor]) -> None:
    """The way back; kinds and names that are not in `state` are not in the part either."""
    part.vectors, part.counters = {}, {}
    for name, value in state.items():
        what, _, rest = name.partition(".")
        if what == "counter":
            part.counters[rest] = float(value)
        elif what == "vector":
            kind, _, parameter = rest.partition(".")
            vector = part.vectors.setdefault(kind, torch.zeros_like(dense.flat))
            dense.put(vector, parameter, value)
    part.load({name.removeprefix("own."): value for name, value in state.items() if name.startswith("own.")})
