"""Low-rank adapters of the Transformer's matrices."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.trainer.sequence.learner import Learner
from services.trainer.sequence.rows import BETAS
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import Dropout, State


class LowRank(Dropout):
    """LoRA (Hu et al., 2022): W0 + (alpha / rank) · B · A on every matrix of the model.

    W0 are the weights of the first update and stay for ever; the model holds the merged matrices, so that scoring and
    serving need not know. The factors are learned by the chain rule on the gradient of the merged matrix. Vectors of
    the model (biases, normalisation, distances) stay as they were; item rows learn as ever, since a new item has
    nothing else. The matrix that reads query, key and value is one, with one adapter.
    """

    def __init__(self, rank: int = 4, alpha: float = 8.0) -> None:
        """Matrices are those with both sides longer than twice the rank."""
        self.rank, self.scale = rank, alpha / rank
        self.base: State = {}
        """The model's weights after the first update, by name."""
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        """B [m, r] and A [r, n] of each matrix [m, n] during an update."""

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Take the factors out of what is merged, or start them when nothing is yet."""
        if not self.base:
            return
        for name, weight in learner.model.named_parameters():
            if weight.dim() == 2 and min(weight.shape) > 2 * self.rank:
                b, a = factors((weight.detach() - self.base[name]) / self.scale, self.rank)
                self.pairs[name] = b.requires_grad_(), a.requires_grad_()
        leaves = [leaf for pair in self.pairs.values() for leaf in pair]
        self._adam = torch.optim.Adam(leaves, lr=learner.settings.rate, betas=BETAS)

    def gradient(self, learner: Learner) -> None:
        """Move the factors and merge them; the learner's own step finds no gradient of a dense weight."""
        if not self.base:
            return
        dense = dict(learner.model.named_parameters())
        slopes = {name: dense[name].grad for name in self.pairs}
        self._adam.zero_grad()
        found = [name for name, slope in slopes.items() if slope is not None]
        torch.autograd.backward([self._merged(name) for name in found], [slopes[name] for name in found])
        self._adam.step()
        with torch.no_grad():
            for name in found:
                dense[name].copy_(self._merged(name))
        for weight in dense.values():
            weight.grad = None

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """The first weights are the base."""
        if not self.base:
            self.base = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}

    def state(self) -> State:
        """The base; with the merged weights it tells the factors."""
        return {name: value.clone() for name, value in self.base.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take it in."""
        self.base = {name: value.clone() for name, value in state.items()}

    def _merged(self, name: str) -> Tensor:
        b, a = self.pairs[name]
        return self.base[name] + self.scale * (b @ a)


def factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [m, r] and A [r, n] with B · A as near to `product` [m, n] as their rank allows, by its singular vectors.

    Rows of A have length 1 whatever B is. Of zero: A is random with rows about as long, and B zero.
    """
    if not bool(product.any()):
        columns = product.shape[1]
        return product.new_zeros(len(product), rank), torch.randn(rank, columns) / math.sqrt(columns)
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank].clone()
