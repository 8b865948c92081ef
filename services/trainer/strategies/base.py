"""The seam between what is learned (`learner`), and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from services.common.spec import ModelSpec
from services.trainer.examples import Example
from services.trainer.groups import Floats, Group, Tables
from services.trainer.models.base import RankingModel
from services.trainer.retrieval import TwoTower

Encode = Callable[[Sequence[Example]], Group]
"""Examples of one kind to a group, on the rows as they are."""


@dataclass(frozen=True)
class Update:
    """What a step brings."""

    groups: Sequence[Group]
    """What appeared, then what flipped."""
    number: int
    """Of the step: the only source of chance."""
    encode: Encode
    teachers: Sequence[Floats | None] = ()
    """The champion's probabilities [B, N, heads] of each group; none while there is no champion."""
    finished: Sequence[Example] = ()
    """Impressions whose labels have become final, as examples of kind CLOSED that weigh 1 an item shown."""


@dataclass(frozen=True)
class Learned:
    """What one step did."""

    loss: float
    """Sum of the weighted losses over the weight of the candidates that appeared; flips subtract."""
    weight: float
    skipped: bool = False
    """The gradient was not finite: nothing was moved."""
    epsilon: float | None = None
    """Of private learning: what has been spent so far; None = learning is not private."""


class Strategy(Protocol):
    """Makes updates. Everything it remembers is in `state`, so that a restart goes on bit for bit."""

    def learn(self, update: Update) -> Learned:
        """One update from a step."""
        ...

    def released(self, encode: Encode, number: int, deep: bool = True) -> None:
        """A release is about to be made from what there is: the time to look back or, if `deep`, to learn at length."""
        ...

    def forget(self, user: str, before_us: int) -> None:
        """Drop what is remembered of a shopper from before that time."""
        ...

    def adapt(self, spec: ModelSpec) -> None:
        """Take another list of features; scores do not change at that moment unless one was dropped."""
        ...

    @property
    def served(self) -> RankingModel:
        """What a release holds and scores are taken by: the ranker, or an average of it."""
        ...

    @property
    def ranker(self) -> RankingModel:
        """The model as it is now."""
        ...

    @property
    def towers(self) -> TwoTower:
        """The retrieval matrices as they are now."""
        ...

    @property
    def tables(self) -> Tables:
        """The rows as they are now."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Weights, statistics and the optimiser's memory by name; not the rows."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in; what another strategy left there is passed over."""
        ...
