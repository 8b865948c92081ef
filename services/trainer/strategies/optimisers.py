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

Optimiser = Literal["sgd", "adagrad", "adam", "ftrl"]


@dataclass(frozen=True)
class DenseConfig:
    """How dense weights move."""

    optimiser: Optimiser = "adam"
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
    l1: float = 0.0
    """FTRL's pull to exact zeros."""
    l2: float = 0.0
    """FTRL's pull to small weights."""
    average: float = 0.98
    """Share of the running average of the weights that a step keeps; 0 = no average."""


_BETA = 1.0
"""FTRL's damping of first steps."""

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
    """One vector of weights and how it moves.

    SGD; Adagrad (Duchi et al., 2011); Adam (Kingma, Ba, 2015); FTRL-proximal (McMahan et al., 2013), whose sums start
    so that its closed form gives the weights there are.
    """

    def __init__(self, module: nn.Module, config: DenseConfig) -> None:
        self.config, self._module = config, module
        parameters = list(module.parameters())
        self.flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.gradient = torch.zeros_like(self.flat)
        self.average = self.flat.clone()
        self._squares = torch.full_like(self.flat, config.first if config.optimiser == "adagrad" else 0.0)
        self._momentum = torch.zeros_like(self.flat) if config.optimiser in ("adam", "ftrl") else self.flat[:0]
        self.rebase()
        self.steps = self.seen = 0
        self.scale = 1.0
        """Times the rate; what adapts the step writes it."""
        self._views: dict[str, slice] = {}
        at = 0
        for name, parameter in module.named_parameters():
            part = slice(at, at + parameter.numel())
            parameter.data = self.flat[part].view_as(parameter)
            parameter.grad = self.gradient[part].view_as(parameter)
            self._views[name] = part
            at = part.stop

    def averaged(self, module: nn.Module) -> None:
        """Let another module of the same shape hold the average of the weights (Polyak, Juditsky, 1992).

        Its parameters become views of the average, its buffers those of the module that learns.
        """
        for name, parameter in module.named_parameters():
            parameter.data = self.average[self._views[name]].view_as(parameter)
            parameter.requires_grad_(False)
        for ours, theirs in zip(self._module.modules(), module.modules(), strict=True):
            for name, buffer in ours.named_buffers(recurse=False):
                setattr(theirs, name, buffer)

    def zero(self) -> None:
        """Forget the gradient, in place: the parameters' gradients stay views."""
        self.gradient.zero_()

    def finite(self) -> bool:
        """False when the gradient holds a NaN or an infinity."""
        return bool(torch.isfinite(self.gradient.sum()))

    @torch.no_grad()
    def step(self, size: float = 1.0, impressions: int = 1) -> float:
        """Move the parameters by `size` of a full step; returns the share of the full rate that this step used."""
        c, g = self.config, self.gradient
        if c.clip > 0:
            g *= torch.clamp(c.clip / (torch.linalg.vector_norm(g) + 1e-12), max=1.0)
        share = rate_at(c, self.seen) * size * self.scale
        self.steps, self.seen = self.steps + 1, self.seen + impressions
        rate = c.rate * share
        if c.decay:
            self.flat.mul_(1 - rate * c.decay)
        _MOVES[c.optimiser](self, g, rate)
        self.average.lerp_(self.flat, 1 - min(c.average, self.steps / (9 + self.steps)))
        return share

    def rebase(self) -> None:
        """The weights were written from outside: FTRL's sums follow, so that its closed form gives them."""
        c = self.config
        if c.optimiser == "ftrl":
            steepness = (_BETA + self._squares.sqrt()) / c.rate + c.l2
            self._momentum.copy_(-self.flat * steepness - torch.sign(self.flat) * c.l1)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector as long as the weights, by parameter, as views."""
        shapes = {name: parameter.shape for name, parameter in self._module.named_parameters()}
        return {name: vector[part].view(shapes[name]) for name, part in self._views.items()}

    def joined(self, named: Mapping[str, Tensor]) -> Tensor:
        """The way back from `named`."""
        vector = torch.zeros_like(self.flat)
        for name, value in named.items():
            self.put(vector, name, value)
        return vector

    def put(self, vector: Tensor, name: str, value: Tensor) -> None:
        """Write one parameter's share of a vector; a name that there is not is passed over."""
        if name in self._views:
            vector[self._views[name]] = value.reshape(-1).to(vector)

    def _sgd(self, g: Tensor, rate: float) -> None:
        self.flat.add_(g, alpha=-rate)

    def _adagrad(self, g: Tensor, rate: float) -> None:
        self._squares.addcmul_(g, g)
        self.flat.addcdiv_(g, self._squares.sqrt().add_(1e-10), value=-rate)

    def _adam(self, g: Tensor, rate: float) -> None:
        self._momentum.lerp_(g, 1 - _BETA1)
        self._squares.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
        unbiased = math.sqrt(1 - _BETA2**self.steps) / (1 - _BETA1**self.steps)
        self.flat.addcdiv_(self._momentum, self._squares.sqrt().add_(1e-8), value=-rate * unbiased)

    def _ftrl(self, g: Tensor, rate: float) -> None:
        # The rate per coordinate falls by itself; a schedule on top would break the closed form.
        c = self.config
        before = self._squares.sqrt()
        self._squares.addcmul_(g, g)
        root = self._squares.sqrt()
        self._momentum.add_(g - (root - before) / c.rate * self.flat)
        pulled = self._momentum - self._momentum.clamp(-c.l1, c.l1)
        self.flat.copy_(-pulled / ((_BETA + root) / c.rate + c.l2))

    @property
    def counts(self) -> tuple[int, int]:
        """Steps, and impressions in them."""
        return self.steps, self.seen

    def state(self) -> dict[str, Tensor]:
        """Accumulators by parameter: `squares.<name>`, `momentum.<name>`, in the parameter's shape."""
        return {f"{kind}.{n}": value for kind, vector in self._vectors() for n, value in self.named(vector).items()}

    def load(self, state: Mapping[str, Tensor], counts: Sequence[int]) -> None:
        """Take `state` and `counts` in; names that are not in it keep what a new optimiser has."""
        self.steps, self.seen = counts
        self.average.copy_(self.flat)
        for kind, vector in self._vectors():
            for name in self._views:
                if f"{kind}.{name}" in state:
                    self.put(vector, name, state[f"{kind}.{name}"])
        if not any(name.startswith("ftrl_sums.") for name in state):
            self.rebase()

    def _vectors(self) -> list[tuple[str, Tensor]]:
        # Each kind under its own name: Adam's squares decay, Adagrad's do not, and none may take another's for its own.
        names = _MEMORY[self.config.optimiser]
        memory = dict(zip(names, (self._squares, self._momentum), strict=False))
        return [("average", self.average), *memory.items()]


_MOVES = {
    "sgd": DenseOptimiser._sgd,
    "adagrad": DenseOptimiser._adagrad,
    "adam": DenseOptimiser._adam,
    "ftrl": DenseOptimiser._ftrl,
}
_MEMORY: Mapping[str, tuple[str, ...]] = {
    "sgd": (),
    "adagrad": ("sums",),
    "adam": ("squares", "momentum"),
    "ftrl": ("ftrl_squares", "ftrl_sums"),
}
