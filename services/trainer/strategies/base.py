"""The seam between what is learned (`learner`), and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from services.common.spec import ModelSpec
from services.trainer.groups import Group, Tables
from services.trainer.models.base import RankingModel
from services.trainer.retrieval import TwoTower


@dataclass(frozen=True)
class Learned:
    """What one step did."""

    loss: float
    """Sum of the weighted losses over the weight of the candidates that appeared; flips subtract."""
    weight: float
    skipped: bool = False
    """The gradient was not finite: nothing was moved."""


class Strategy(Protocol):
    """Makes updates. Everything it remembers is in `state`, so that a restart goes on bit for bit."""

    def learn(self, groups: Sequence[Group], number: int) -> Learned:
        """One update from a step; `number` counts steps and is the only source of chance."""
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
        """Take `state` in."""
        ...
