"""How a row moves against its gradient, one interaction at a time: each a small frozen description.

The arithmetic is in `factorisation_kernels`, compiled; here are the names, the sources and the checks.
"""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput

SGD_KIND, ADAGRAD_KIND, FTRL_KIND, PA_KIND = range(4)


class _Checked:
    """Numbers must be finite, and none may be negative."""

    _positive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name in self._positive):
                bound = "positive" if field.name in self._positive else "not negative"
                raise InvalidInput(field.name, "out_of_range", f"must be finite and {bound}")


@dataclass(frozen=True)
class SGD(_Checked):
    """w -= rate · (gradient + decay · w) (Robbins and Monro, 1951)."""

    rate: float = 0.05
    decay: float = 0.0
    kind: ClassVar[int] = SGD_KIND
    _positive: ClassVar[tuple[str, ...]] = ("rate",)

    def numbers(self) -> NDArray[np.float64]:
        """What the kernel reads, [5]."""
        return np.array([self.rate, self.decay, 0, 0, 0], np.float64)


@dataclass(frozen=True)
class Adagrad(_Checked):
    """n += g², w -= rate · g / (√n + epsilon), with g = gradient + decay · w (Duchi, Hazan and Singer, 2011)."""

    rate: float = 0.1
    decay: float = 0.0
    epsilon: float = 1e-8
    kind: ClassVar[int] = ADAGRAD_KIND
    _positive: ClassVar[tuple[str, ...]] = ("rate", "epsilon")

    def numbers(self) -> NDArray[np.float64]:
        """What the kernel reads, [5]."""
        return np.array([self.rate, self.decay, self.epsilon, 0, 0], np.float64)


@dataclass(frozen=True)
class FTRL(_Checked):
    """Follow the regularised leader, per-coordinate FTRL-proximal (McMahan et al., 2013, algorithm 1).

    σ = (√(n + g²) - √n) / alpha, z += g - σ·w, n += g², and w = 0 where |z| ≤ l1, else
    -(z - sign(z)·l1) / ((beta + √n) / alpha + l2). A row that starts from w₀ starts with z = -w₀·beta / alpha: the
    first proximal term is then centred on w₀, which is the algorithm itself for w₀ = 0.
    """

    rate: float = 0.1
    """alpha of the paper."""
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    kind: ClassVar[int] = FTRL_KIND
    _positive: ClassVar[tuple[str, ...]] = ("rate",)

    def numbers(self) -> NDArray[np.float64]:
        """What the kernel reads, [5]."""
        return np.array([self.rate, 0, self.beta, self.l1, self.l2], np.float64)


@dataclass(frozen=True)
class PassiveAggressive(_Checked):
    """The smallest step along the features that meets a margin (Crammer et al., 2006): |y - ŷ| ≤ epsilon.

    With loss l = max(0, |y - ŷ| - epsilon) and features x (1 for each bias, the other side's factors for each row) the
    step is τ·x with τ = l / ‖x‖² (`PA`), min(C, l / ‖x‖²) (`PA-I`) or l / (‖x‖² + 1 / 2C) (`PA-II`). Both sides of a
    product move at once, which adds τ²·p·q to the prediction; τ solves the quadratic equation that counts it, so the
    margin is met exactly. Where the equation has no solution (a loss above 4 at least) τ is the linear one.
    """

    epsilon: float = 0.1
    aggressiveness: float = 0.1
    """C of the paper."""
    variant: Literal["PA", "PA-I", "PA-II"] = "PA-I"
    kind: ClassVar[int] = PA_KIND
    _positive: ClassVar[tuple[str, ...]] = ("aggressiveness",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in ("PA", "PA-I", "PA-II"):
            raise InvalidInput("variant", "unknown", "must be PA, PA-I or PA-II")

    def numbers(self) -> NDArray[np.float64]:
        """What the kernel reads, [5]: tolerance, cap of τ, what is added to the squared length."""
        cap = self.aggressiveness if self.variant == "PA-I" else math.inf
        slack = 1 / (2 * self.aggressiveness) if self.variant == "PA-II" else 0.0
        return np.array([self.epsilon, cap, slack, 0, 0], np.float64)


RowOptimiser = SGD | Adagrad | FTRL | PassiveAggressive
