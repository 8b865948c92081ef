"""Moving few of the weights: chosen layers, and low-rank adapters.

Both begin with the first release: what was released is the pre-trained model that is tuned from then on.

The factors of an adapter are learned by the chain rule on the gradient of the merged matrix W = W0 + s·B·A, which
is what the model holds: dB = s·dW·Aᵀ, dA = s·Bᵀ·dW. So the model, its export and everybody who reads it stay as
they are, and what is exported is merged by itself.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from services.common.ids import key_of
from services.trainer.strategies.optimisers import DenseOptimiser
from services.trainer.strategies.parts import Moment, Part

Which = Literal["top", "biases"]

_BETA1, _BETA2 = 0.9, 0.99


class ChosenLayers(Part):
    """Fine-tuning of the last layers alone, or of biases alone (BitFit; Ben Zaken et al., 2022)."""

    name = "layers"

    def __init__(self, which: Which = "top") -> None:
        super().__init__()
        self._which = which

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`."""
        if "base" in self.vectors:
            dense.gradient *= self._free(dense)

    def stepped(self, dense: DenseOptimiser) -> None:
        """See `Part`: momentum from before, and weight decay, move nothing either."""
        if "base" in self.vectors:
            dense.flat.copy_(torch.where(self._free(dense) > 0, dense.flat, self.vectors["base"]))

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        if "base" not in self.vectors:
            self.vectors["base"] = moment.dense.flat.clone()

    def _free(self, dense: DenseOptimiser) -> Tensor:
        named = dense.named(torch.zeros_like(dense.flat))
        return dense.joined({n: torch.ones_like(v) for n, v in named.items() if n in chosen(list(named), self._which)})


class Thaw(ChosenLayers):
    """Only the last layers learn until so many impressions have come; then all do (gradual unfreezing; Howard, 2018).

    For a model whose weights were taken over from another shop.
    """

    name = "thaw"

    def __init__(self, impressions: float = 1000) -> None:
        super().__init__("top")
        self._impressions = impressions
        self.counters = {"seen": 0.0}

    def begin(self, dense: DenseOptimiser) -> None:
        """See `Part`: frozen from the start."""
        self.vectors, self.counters = {"base": dense.flat.clone()}, {"seen": 0.0}

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`."""
        self.counters["seen"] += impressions
        if self.counters["seen"] >= self._impressions:
            self.vectors.pop("base", None)
        super().gradient(dense, impressions)

    def released(self, moment: Moment) -> None:
        """See `Part`: a release freezes nothing."""


def chosen(names: Sequence[str], which: Which) -> set[str]:
    """Parameters that stay free.

    >>> sorted(chosen(["a.weight", "b.weight", "b.bias", "c.bias"], "top"))
    ['b.bias', 'b.weight', 'c.bias']
    """
    if which == "biases":
        return {name for name in names if name.endswith("bias")}
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    return {name for name in names if name.rpartition(".")[0] in layers[-2:]}


class LowRank(Part):
    """LoRA (Hu et al., 2022): W0 + (alpha / rank) · B · A on every matrix; nothing else moves.

    Matrices are those with both sides longer than twice the rank. A starts random and B at zero, so that the first
    scores are those of the release; factors move by Adam.
    """

    name = "lora"

    def __init__(self, rank: float = 4, alpha: float = 8.0, rate: float = 0.003) -> None:
        super().__init__()
        self._rank, self._scale, self._rate = int(rank), alpha / rank, rate
        self._factors: dict[str, Tensor] = {}

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        if "base" not in self.vectors:
            self.vectors["base"] = moment.dense.flat.clone()
            self.counters["steps"] = 0.0

    def gradient(self, dense: DenseOptimiser, impressions: int) -> None:
        """See `Part`: the factors move, and the plain step finds nothing to do."""
        if "base" not in self.vectors:
            return
        self.counters["steps"] += 1
        for name, slope in self._matrices(dense, dense.gradient).items():
            self._tune(name, slope)
        dense.gradient.zero_()

    def stepped(self, dense: DenseOptimiser) -> None:
        """See `Part`: base plus adapters, whatever momentum and decay have done."""
        if "base" in self.vectors:
            dense.flat.copy_(self.merged(dense))

    def merged(self, dense: DenseOptimiser) -> Tensor:
        """The dense weights with the adapters in them."""
        out = self.vectors["base"].clone()
        for name, matrix in self._matrices(dense, out).items():
            if f"{name}/a" in self._factors:
                matrix += self._scale * self._product(name)
        return out

    def adapt(self, spec: object) -> None:
        """See `Part`: adapters of matrices that have another shape now begin anew."""
        self._factors = {}

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        return dict(self._factors)

    def load(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        """See `Part`."""
        self._factors = {name: value.clone() for name, value in state.items()}

    def _product(self, name: str) -> Tensor:
        return self._factors[f"{name}/b"] @ self._factors[f"{name}/a"]

    def _tune(self, name: str, slope: Tensor) -> None:
        if f"{name}/a" not in self._factors:
            self._start(name, slope)
        a, b = self._factors[f"{name}/a"], self._factors[f"{name}/b"]
        self._adam(f"{name}/a", self._scale * b.T @ slope)
        self._adam(f"{name}/b", self._scale * slope @ a.T)

    def _start(self, name: str, like: Tensor) -> None:
        rows, columns = like.shape
        self._factors[f"{name}/a"] = self._random(name, self._rank, columns).to(like) / math.sqrt(columns)
        self._factors[f"{name}/b"] = torch.zeros(rows, self._rank).to(like)

    def _random(self, name: str, rows: int, columns: int) -> Tensor:
        """Normal numbers [rows, columns] that depend on the name alone: a restart finds the same."""
        source = torch.Generator().manual_seed(key_of(name) >> 1)
        return torch.randn(rows, columns, generator=source)

    def _adam(self, name: str, slope: Tensor) -> None:
        mean = self._factors.setdefault(f"{name}.mean", torch.zeros_like(slope))
        square = self._factors.setdefault(f"{name}.square", torch.zeros_like(slope))
        mean.lerp_(slope, 1 - _BETA1)
        square.mul_(_BETA2).addcmul_(slope, slope, value=1 - _BETA2)
        steps = self.counters["steps"]
        unbiased = math.sqrt(1 - _BETA2**steps) / (1 - _BETA1**steps)
        self._factors[name].addcdiv_(mean, square.sqrt().add_(1e-8), value=-self._rate * unbiased)

    def _matrices(self, dense: DenseOptimiser, vector: Tensor) -> dict[str, Tensor]:
        named = dense.named(vector)
        return {n: v for n, v in named.items() if v.dim() == 2 and min(v.shape) > 2 * self._rank}


class AdaptiveRank(LowRank):
    """AdaLoRA (Zhang et al., 2023): W0 + s · P·Λ·Q, where a budget of directions is spread by what they matter.

    Of every direction, importance is the running mean of |λ · dλ| (sensitivity); at a release all but the `budget`
    share most important of all matrices together are set to zero. P and Q are pulled to orthogonality.
    """

    name = "adalora"

    def __init__(self, rank: float = 8, budget: float = 0.5, rate: float = 0.003) -> None:
        super().__init__(rank, rank, rate)
        self._budget = budget

    def released(self, moment: Moment) -> None:
        """See `Part`."""
        super().released(moment)
        names = [name.removesuffix("/l") for name in self._factors if name.endswith("/l")]
        if not names:
            return
        importance = torch.cat([self._factors[f"{name}/importance"] for name in names])
        kept = max(1, int(self._budget * len(importance)))
        bound = torch.sort(importance, descending=True).values[kept - 1]
        for name in names:
            self._factors[f"{name}/l"] *= self._factors[f"{name}/importance"] >= bound
        moment.dense.flat.copy_(self.merged(moment.dense))

    def _product(self, name: str) -> Tensor:
        return (self._factors[f"{name}/b"] * self._factors[f"{name}/l"]) @ self._factors[f"{name}/a"]

    def _start(self, name: str, like: Tensor) -> None:
        super()._start(name, like)
        rows = like.shape[0]
        self._factors[f"{name}/b"] = self._random(f"{name}/p", rows, self._rank).to(like) / math.sqrt(rows)
        self._factors[f"{name}/l"] = torch.zeros(self._rank).to(like)
        self._factors[f"{name}/importance"] = torch.zeros(self._rank).to(like)

    def _tune(self, name: str, slope: Tensor) -> None:
        if f"{name}/a" not in self._factors:
            self._start(name, slope)
        q, p, scale = self._factors[f"{name}/a"], self._factors[f"{name}/b"], self._factors[f"{name}/l"]
        by_scale = self._scale * torch.einsum("rk,rc,kc->k", p, slope, q)
        importance = self._factors[f"{name}/importance"]
        importance.lerp_((scale * by_scale).abs(), 0.15)
        self._adam(f"{name}/a", self._scale * (p * scale).T @ slope + _PULL * _skew(q @ q.T) @ q)
        self._adam(f"{name}/b", self._scale * (slope @ q.T) * scale + _PULL * p @ _skew(p.T @ p))
        self._adam(f"{name}/l", by_scale)


_PULL = 0.1
"""Strength of the orthogonality of P and Q."""


def _skew(gram: Tensor) -> Tensor:
    """What keeps directions from being orthonormal: the Gram matrix less the identity."""
    return gram - torch.eye(len(gram)).to(gram)
