"""Dense optimisers on one flat vector: a step is a handful of operations however many layers there are.

A model's parameters become views of one vector, their gradients of another. That is also what makes
a checkpoint of the optimiser two named arrays.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DenseConfig:
    """How dense weights move."""

    optimiser: Literal["adagrad", "adam"] = "adam"
    rate: float = 0.003
    schedule: Literal["constant", "inverse_sqrt"] = "constant"
    warmup: int = 20
    """Impressions over which the rate rises to its full height: steps differ in size, from one to thousands."""
    decay: float = 0.0
    """Decoupled weight decay per step, times the rate."""
    clip: float = 100.0
    """Largest length of the whole gradient; 0 = any."""
    first: float = 0.01
    """What Adagrad's accumulators start from."""
    average: float = 0.98
    """Share of the running average of the weights that a step keeps; 0 = no average."""


_BETA1, _BETA2 = 0.9, 0.99
"""A short memory of squares: the stream moves, and a step is a few impressions."""


def rate_at(config: DenseConfig, seen: int) -> float:
    """Share of the full rate after so many impressions.

    >>> rate_at(DenseConfig(warmup=4), 0), rate_at(DenseConfig(warmup=4), 9)
    (0.25, 1.0)
    """
    rise = min(1.0, (seen + 1) / max(1, config.warmup))
    if config.schedule == "inverse_sqrt":
        return rise * math.sqrt(max(1, config.warmup) / max(config.warmup, seen + 1, 1))
    return rise


class DenseOptimiser:
    """Adagrad (Duchi et al., 2011) or Adam (Kingma, Ba, 2015) over all parameters of a module."""

    def __init__(self, module: nn.Module, config: DenseConfig) -> None:
        self.config, self._module = config, module
        parameters = list(module.parameters())
        self._flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self._gradient = torch.zeros_like(self._flat)
        self._squares = torch.full_like(self._flat, config.first if config.optimiser == "adagrad" else 0.0)
        self._momentum = torch.zeros_like(self._flat) if config.optimiser == "adam" else self._flat[:0]
        self._average = self._flat.clone()
        self.steps = self.seen = 0
        self._views: dict[str, slice] = {}
        at = 0
        for name, parameter in module.named_parameters():
            part = slice(at, at + parameter.numel())
            parameter.data = self._flat[part].view_as(parameter)
            parameter.grad = self._gradient[part].view_as(parameter)
            self._views[name] = part
            at = part.stop

    def averaged(self, module: nn.Module) -> None:
        """Let another module of the same shape hold the average of the weights (Polyak, Juditsky, 1992).

        Its parameters become views of the average, its buffers those of the module that learns.
        """
        for name, parameter in module.named_parameters():
            parameter.data = self._average[self._views[name]].view_as(parameter)
            parameter.requires_grad_(False)
        for ours, theirs in zip(self._module.modules(), module.modules(), strict=True):
            for name, buffer in ours.named_buffers(recurse=False):
                setattr(theirs, name, buffer)

    def zero(self) -> None:
        """Forget the gradient, in place: the parameters' gradients stay views."""
        self._gradient.zero_()

    def finite(self) -> bool:
        """False when the gradient holds a NaN or an infinity."""
        return bool(torch.isfinite(self._gradient.sum()))

    @torch.no_grad()
    def step(self, size: float = 1.0, impressions: int = 1) -> float:
        """Move the parameters by `size` of a full step; returns the share of the full rate that this step used."""
        c, g = self.config, self._gradient
        if c.clip > 0:
            g *= torch.clamp(c.clip / (torch.linalg.vector_norm(g) + 1e-12), max=1.0)
        share = rate_at(c, self.seen) * size
        self.steps, self.seen = self.steps + 1, self.seen + impressions
        rate = c.rate * share
        if c.decay:
            self._flat.mul_(1 - rate * c.decay)
        if c.optimiser == "adagrad":
            self._squares.addcmul_(g, g)
            self._flat.addcdiv_(g, self._squares.sqrt().add_(1e-10), value=-rate)
        else:
            self._momentum.lerp_(g, 1 - _BETA1)
            self._squares.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
            unbiased = math.sqrt(1 - _BETA2**self.steps) / (1 - _BETA1**self.steps)
            self._flat.addcdiv_(self._momentum, self._squares.sqrt().add_(1e-8), value=-rate * unbiased)
        self._average.lerp_(self._flat, 1 - min(c.average, self.steps / (9 + self.steps)))
        return share

    @property
    def counts(self) -> tuple[int, int]:
        """Steps, and impressions in them."""
        return self.steps, self.seen

    def state(self) -> dict[str, Tensor]:
        """Accumulators by parameter: `squares.<name>`, `momentum.<name>`, in the parameter's shape."""
        shapes = {name: parameter.shape for name, parameter in self._module.named_parameters()}
        return {
            f"{kind}.{name}": vector[part].view(shapes[name])
            for kind, vector in self._vectors()
            for name, part in self._views.items()
        }

    def load(self, state: Mapping[str, Tensor], counts: Sequence[int]) -> None:
        """Take `state` and `counts` in; names that are not in it keep what a new optimiser has."""
        self.steps, self.seen = counts
        self._average.copy_(self._flat)
        for kind, vector in self._vectors():
            for name, part in self._views.items():
                if f"{kind}.{name}" in state:
                    vector[part] = state[f"{kind}.{name}"].reshape(-1).to(vector)

    def _vectors(self) -> list[tuple[str, Tensor]]:
        kept = [("squares", self._squares), ("average", self._average)]
        return kept + ([("momentum", self._momentum)] if self._momentum.numel() else [])
