"""Staying near what was released or received: elastic weights, a proximal term, and parameter fusion."""

import torch
from torch import Tensor

from services.trainer.strategies.optimisers import DenseOptimiser
from services.trainer.strategies.parts import Moment, Part


class ElasticWeights(Part):
    """Elastic weight consolidation: + strength / 2 · Σ F (θ - θ*)² (Kirkpatrick et al., 2017).

    θ* are the weights of the last release. F, the diagonal of the Fisher information, is a running mean of squared
    gradients per impression; older releases fade by `fade` (online EWC; Schwarz et al., 2018).
    """

    name = "ewc"

    def __init__(self, strength: float = 100.0, fade: float = 0.9) -> None:
        super().__init__()
        self._strength, self._fade = strength, fade
        self.counters = {"impressions": 0.0}

    def begin(self, dense: DenseOptimiser) -> None:
        """See `Part`."""
        self.vectors = {"squares": torch.zeros_like(dense.flat)}
        self.counters = {"impressions": 0.0}

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`: squares are of the loss alone, so the penalty comes after."""
        count = max(1, impressions)
        self.vectors["squares"].addcmul_(dense.gradient, dense.gradient, value=1 / count)
        self.counters["impressions"] += count
        if "anchor" in self.vectors:
            moved = dense.flat - self.vectors["anchor"]
            # Per impression of the step, as the loss is: a sum, not a mean.
            dense.gradient.addcmul_(self.vectors["fisher"], moved, value=self._strength * count)

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        if not self.counters["impressions"]:
            return
        new = self.vectors["squares"] / self.counters["impressions"]
        old = self.vectors.get("fisher")
        self.vectors["fisher"] = new if old is None else self._fade * old + (1 - self._fade) * new
        self.vectors["anchor"] = moment.dense.flat.clone()
        self._count_anew()

    def _count_anew(self) -> None:
        self.vectors["squares"] = torch.zeros_like(self.vectors["squares"])
        self.counters["impressions"] = 0.0


class Proximal(Part):
    """FedProx: + mu / 2 · |θ - θ*|² (Li et al., 2020), of the dense weights; rows are not held.

    θ* are the weights that the round of a federation began with; of a trainer by itself, those of the last release.
    """

    name = "proximal"

    def __init__(self, mu: float = 0.01) -> None:
        super().__init__()
        self._mu = mu

    def begin(self, dense: DenseOptimiser) -> None:
        """See `Part`."""
        self.vectors = {"anchor": dense.flat.clone()}

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`."""
        # Per impression of the step, as the loss is: a sum, not a mean.
        dense.gradient.add_(dense.flat - self.vectors["anchor"], alpha=self._mu * max(1, impressions))

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        self.received(moment.dense)

    def received(self, dense: DenseOptimiser) -> None:
        """See `Part`."""
        self.vectors["anchor"] = dense.flat.clone()


class Fusion(Part):
    """Parameter fusion: at a release the weights become M_pre + share · (θ_new - θ_pre), and learning goes on there.

    A convex combination of the last release and of what was learned since (as in weight interpolation for continual
    learning: Wortsman et al., 2022). share 0 gives the old weights bit for bit, 1 the new.
    """

    name = "fusion"

    def __init__(self, share: float = 0.7) -> None:
        super().__init__()
        self._share = share

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        dense = moment.dense
        if "before" in self.vectors:
            share = self._chosen(moment, self.vectors["before"], dense.average)
            self.counters["share"] = share
            for vector, before in ((dense.flat, "before_flat"), (dense.average, "before")):
                vector.copy_(torch.lerp(self.vectors[before], vector, share))
            dense.rebase()
        self.vectors = {"before": dense.average.clone(), "before_flat": dense.flat.clone()}

    def _chosen(self, moment: Moment, before: Tensor, now: Tensor) -> float:
        return self._share


class ChosenFusion(Fusion):
    """Fusion with the share that scores the held-out impressions best; the largest at a tie."""

    name = "fusion_chosen"
    SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)

    def __init__(self) -> None:
        super().__init__(1.0)

    def _chosen(self, moment: Moment, before: Tensor, now: Tensor) -> float:
        if not moment.held:
            return 1.0
        losses = {share: moment.loss_of(torch.lerp(before, now, share), moment.held) for share in self.SHARES}
        return min(losses, key=lambda share: losses[share])
