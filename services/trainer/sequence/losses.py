"""Softmax over the catalogue, in full or over a sample of it.

The sampled one estimates the sum over all items by importance weights: item j is in the sample with probability
pi_j, independently of the others, and then counts 1 / pi_j times, which is the log-Q correction of its logit
(Bengio and Senecal, 2008; Yi et al., 2019). The true item always counts once. The estimated sum is unbiased, so the
gradient's bias vanishes as the sample grows; with all items as the sample it is the full softmax.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.errors import InvalidInput

_ROWS = 128
"""Examples whose logits are computed at a time: what stays in the cache."""


@dataclass(frozen=True)
class Sample:
    """C candidates that differ from each other."""

    slots: Tensor
    """[C] ascending."""
    log_weights: Tensor
    """[C] ln(1 / pi): how often each counts."""


class Sampler:
    """Draws each item on its own (Poisson sampling), more often the more often it was looked at."""

    def __init__(self, counts: NDArray[Any], size: int, power: float) -> None:
        """`counts` [V] of each item; `size` candidates expected; probability ~ (count + 1) ** power, at most 1.

        Raises InvalidInput when `size` is not positive.
        """
        if size < 1:
            raise InvalidInput("size", "not_positive", "a sample needs at least one candidate")
        self.probability = _inclusion((counts + 1.0) ** power, min(size, len(counts)))
        self._log_weights = torch.from_numpy(-np.log(self.probability)).float()

    def draw(self, random: np.random.Generator) -> Sample:
        """One sample; its size varies around the expected one."""
        slots = torch.from_numpy(np.flatnonzero(random.random(len(self.probability)) < self.probability))
        return Sample(slots, self._log_weights[slots])


def _inclusion(weights: NDArray[Any], size: int) -> NDArray[Any]:
    """Probabilities min(1, c * weight) that sum to `size`.

    >>> _inclusion(np.array([8.0, 1.0, 1.0]), 2).tolist()
    [1.0, 0.5, 0.5]
    """
    sure = np.zeros(len(weights), np.bool_)
    while True:
        left = size - np.count_nonzero(sure)
        share = np.where(sure, 1.0, weights * (left / max(weights[~sure].sum(), 1e-300)))
        if (share <= 1).all():
            return np.asarray(share)
        sure |= share >= 1


def full_softmax(hidden: Tensor, table: Tensor, targets: Tensor, half: bool = False) -> Tensor:
    """Mean cross-entropy of `targets` [n] for `hidden` [n, D] over all rows of `table` [V, D]."""
    everything = Sample(torch.arange(len(table)), torch.zeros(len(table)))
    return sampled_softmax(hidden, table, targets, everything, half)


def sampled_softmax(hidden: Tensor, table: Tensor, targets: Tensor, sample: Sample, half: bool = False) -> Tensor:
    """Mean over n of -ln p(target); p is estimated over the sample and the target.

    `hidden` [n, D], `table` [V, D]; `targets` [n] and `sample.slots` are rows of `table`. `half`: products of
    matrices in bfloat16, sums in float32.
    """
    where = torch.full((len(table),), -1)
    where[sample.slots] = torch.arange(len(sample.slots))
    true = torch.nn.functional.embedding(targets, table)
    out: Tensor = _Softmax.apply(hidden, table[sample.slots], true, where[targets], sample.log_weights, half)
    return out


class _Softmax(torch.autograd.Function):
    """The gradient is computed with the loss, a few rows at a time: no [n, C] matrix is ever kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, candidates: Tensor, true: Tensor, hit: Tensor, log_weights: Tensor, half: bool
    ) -> Tensor:
        """`hit` [n]: column of the target among the candidates [C, D], -1 when it is not there."""
        kind = torch.bfloat16 if half else hidden.dtype
        left, right = hidden.to(kind), candidates.to(kind)
        total = hidden.new_zeros(())
        d_hidden, d_own = torch.empty_like(hidden), hidden.new_empty(len(hidden), 1)
        d_candidates = torch.zeros_like(candidates)
        for at in range(0, len(hidden), _ROWS):
            part = slice(at, at + _ROWS)
            own = (hidden[part] * true[part]).sum(1, keepdim=True)
            logits = torch.mm(left[part], right.T).to(hidden.dtype).add_(log_weights)
            found = torch.nonzero(hit[part] >= 0)[:, 0]
            logits[found, hit[part][found]] = -torch.inf
            most = torch.maximum(logits.amax(1, keepdim=True), own)
            shares = logits.sub_(most).exp_()
            own_share = (own - most).exp_()
            sums = shares.sum(1, keepdim=True) + own_share
            total += (sums.log() + most - own).sum()
            rest = shares.div_(sums).to(kind)
            d_own[part] = own_share / sums - 1
            d_hidden[part] = torch.mm(rest, right)
            d_candidates += torch.mm(rest.T, left[part])
        ctx.save_for_backward(d_hidden.addcmul_(d_own, true), d_candidates, d_own * hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden, candidates and true."""
        d_hidden, d_candidates, d_true = ctx.saved_tensors
        scale = outputs[0] / len(d_hidden)
        return d_hidden * scale, d_candidates * scale, d_true * scale, None, None, None
