"""What a wrong score costs: the loss of one candidate under label 0 and under label 1.

Examples come as sums (design: joiner): a candidate appears with loss(0), and its action adds loss(1) - loss(0). Any
loss of a candidate by itself fits: both halves are functions of the logit alone. All are summed in logits, where
d/dz of the cross-entropy is σ(z) - y: that is the gradient by the logit, not by the probability, where it is
(p - y) / (p (1 - p)).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from services.common.records import FLIP, INITIAL
from services.trainer.groups import Floats, Group

Labels = Literal["flips", "waiting", "fake_negatives", "calibrated", "at_release"]
"""How labels that come late are learned; see `GroupLoss`."""


class PointLoss(ABC):
    """The loss of one candidate, by its logit."""

    @abstractmethod
    def zero(self, logits: Tensor) -> Tensor:
        """Under label 0, in the shape of `logits`."""

    @abstractmethod
    def one(self, logits: Tensor) -> Tensor:
        """Under label 1."""

    def flip(self, logits: Tensor) -> Tensor:
        """What an action adds to a candidate that was learned under label 0."""
        return self.one(logits) - self.zero(logits)


class CrossEntropy(PointLoss):
    """-ln(1 - p) and -ln p."""

    def flip(self, logits: Tensor) -> Tensor:
        """See `PointLoss`: ln(1 - p) - ln p is the logit itself."""
        return -logits

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return F.softplus(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return F.softplus(-logits)


@dataclass(frozen=True)
class Focal(PointLoss):
    """Less weight for what is scored well already: (1 - p_true)^gamma times the loss (Lin et al., 2017)."""

    gamma: float = 2.0
    base: PointLoss = CrossEntropy()

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return torch.sigmoid(logits) ** self.gamma * self.base.zero(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return torch.sigmoid(-logits) ** self.gamma * self.base.one(logits)


@dataclass(frozen=True)
class Smoothed(PointLoss):
    """Labels that are not quite sure: y' = y (1 - share) + share / 2 (Szegedy et al., 2016, for two classes)."""

    share: float = 0.1
    base: PointLoss = CrossEntropy()

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        half = self.share / 2
        return (1 - half) * self.base.zero(logits) + half * self.base.one(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        half = self.share / 2
        return (1 - half) * self.base.one(logits) + half * self.base.zero(logits)


@dataclass(frozen=True)
class Weighted(PointLoss):
    """Positives count `weight` times; scores are then of the odds times the weight, so they are no probabilities."""

    weight: float = 2.0
    base: PointLoss = CrossEntropy()

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return self.base.zero(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return self.weight * self.base.one(logits)


@dataclass(frozen=True)
class Reweighted(PointLoss):
    """Positives that look wrong count less, by p^beta (R-CE of adaptive denoising; Wang et al., 2021)."""

    beta: float = 0.2
    base: PointLoss = CrossEntropy()

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return self.base.zero(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`; the weight is not learned."""
        return torch.sigmoid(logits).detach() ** self.beta * self.base.one(logits)


@dataclass(frozen=True)
class Truncated(PointLoss):
    """Positives below a probability are left out, as noise (T-CE; Wang et al., 2021, with a fixed bound)."""

    least: float = 0.01
    base: PointLoss = CrossEntropy()

    def zero(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return self.base.zero(logits)

    def one(self, logits: Tensor) -> Tensor:
        """See `PointLoss`."""
        return (torch.sigmoid(logits).detach() >= self.least) * self.base.one(logits)


@dataclass(frozen=True)
class GroupLoss:
    """The loss of a group, summed over its candidates and heads.

    - `flips`: what appeared is loss(0); an action adds loss(1) - loss(0), which takes the first back. The sum is the
      loss under full labels, whatever the delay.
    - `fake_negatives`: an action adds loss(1) alone, and each candidate is weighed by what it was sampled from:
      1 - p² for what appeared, 1 + p for an action (fake negative weighting; Ktena et al., 2019). These are the
      importance weights of elapsed-time sampling (Yang et al., 2021) when nothing is waited for.
    - `calibrated`: an action adds loss(1) alone, nothing is weighed, and what is fitted is the share of positives
      among what is then learned, b = p / (1 + p) (fake negative calibration; Ktena et al., 2019). The paper turns b
      back into p when it serves; here the logit of b, which is ln p, is taken inside the loss, so scores stay p.
    - `waiting`: only groups of final labels are given to it; `at_release`: those alone that a part learns at a release.

    A head `under` another is learned of what the other has fired for, and of nothing else: label 1 where both fire,
    label 0 where the other does alone. What appears says nothing about it, so there is nothing to take back.
    """

    point: PointLoss
    heads: Tensor
    """[heads]: weight of each head's loss."""
    labels: Labels = "flips"
    under: tuple[int, ...] = ()
    """Of each head the one that it is under, itself when it is under none; empty = none is."""

    @property
    def free(self) -> Tensor:
        """[heads]: weight of each head that is learned of everything; 0 for those under another."""
        if not self.under:
            return self.heads
        alone = torch.tensor([place == above for place, above in enumerate(self.under)], device=self.heads.device)
        return self.heads * alone

    def __call__(self, logits: Tensor, group: Group) -> Tensor:
        """A number; `logits` [B, N, heads]."""
        total = torch.zeros((), device=logits.device)
        if group.negatives.any():
            negatives = torch.from_numpy(group.negatives).to(logits.device).unsqueeze(-1) * self.free
            total = total + (self._appeared(logits, group) * negatives).sum()
        if group.positives.any():
            acted = torch.from_numpy(group.positives).to(logits.device)
            total = total + (self._acted(logits, group) * acted * self.free).sum()
            if self.under:
                total = total + self._told(logits, acted)
        return total

    def _told(self, logits: Tensor, acted: Tensor) -> Tensor:
        """Of the heads under others; `acted` [B, N, heads] weights of what fired."""
        below = acted[:, :, list(self.under)] - acted
        losses = self.point.one(logits) * acted + self.point.zero(logits) * below
        total: Tensor = (losses * (self.heads - self.free)).sum()
        return total

    def again(self, logits: Tensor, group: Group, times: Floats) -> Tensor:
        """The group's positives so many `times` [B, N, heads] more: loss(1), for loss(0) is taken back once alone."""
        weights = torch.from_numpy(group.positives * times).to(logits.device) * self.free
        alone = group.kind == FLIP and self.labels in ("calibrated", "fake_negatives")
        total: Tensor = ((self._acted(logits, group) if alone else self.point.one(logits)) * weights).sum()
        return total

    def _appeared(self, logits: Tensor, group: Group) -> Tensor:
        if self.labels == "calibrated" and group.kind == INITIAL:
            return self.point.zero(F.logsigmoid(logits))
        zero = self.point.zero(logits)
        late = self.labels == "fake_negatives" and group.kind == INITIAL
        return zero * (1 - torch.sigmoid(logits).detach() ** 2) if late else zero

    def _acted(self, logits: Tensor, group: Group) -> Tensor:
        if self.labels == "calibrated" and group.kind == FLIP:
            return self.point.one(F.logsigmoid(logits))
        if self.labels == "fake_negatives" and group.kind == FLIP:
            return self.point.one(logits) * (1 + torch.sigmoid(logits).detach())
        return self.point.flip(logits)
