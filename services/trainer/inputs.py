"""Numeric features inside the graph: missing values, normalisation, and columns that come and go.

Each number x becomes seven columns: x, sign(x)·ln(1 + |x|) and 1 / (1 + |x|), each less its mean and over its
deviation, cut to ±5 and 0 when missing; whether x is 0, 1 or -1, for ranks, counts and steps in a list, where these
differ in kind from the rest; and a mask. Features are kept in *blocks* of those that came together: a new feature is a
new block with zero weights, added last, so that the sum before it - and with it every score - stays the same bit for
bit.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_CUT = 5.0
_BENDS = 3
"""Columns that are normalised."""
_POINTS = (0.0, 1.0, -1.0)
COLUMNS = _BENDS + len(_POINTS) + 1
"""Columns that one feature becomes."""


def damped(x: Tensor) -> Tensor:
    """sign(x)·ln(1 + |x|): counts and durations have long tails.

    >>> damped(torch.tensor([0.0])).item()
    0.0
    """
    return torch.sign(x) * torch.log1p(torch.abs(x))


def bent(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x as it is, damped, and as 1 / (1 + |x|), which tells the first places of a list apart."""
    return x, damped(x), 1 / (1 + torch.abs(x))


class Block(nn.Module):
    """Features that came together: their statistics and their weights into `outputs` sums."""

    columns: Tensor
    center: Tensor
    scale: Tensor
    seen: Tensor
    sums: Tensor
    frozen_at: Tensor

    def __init__(self, ids: Sequence[int], columns: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.ids = tuple(ids)
        n = len(ids)
        self.weight = nn.Parameter(torch.zeros(COLUMNS * n, outputs))
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.register_buffer("center", torch.zeros(_BENDS, n))
        self.register_buffer("scale", torch.ones(_BENDS, n))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2 * _BENDS, n, dtype=torch.float64))
        self.register_buffer("frozen_at", torch.zeros(n, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., all features] -> [..., outputs]."""
        x = torch.index_select(x, -1, self.columns)
        missing = torch.isnan(x)
        mask = (~missing).to(x.dtype)
        x = torch.where(missing, torch.zeros_like(x), x)
        bends = torch.stack(bent(x), dim=-2)
        normal = torch.clamp((bends - self.center) * self.scale, -_CUT, _CUT) * mask.unsqueeze(-2)
        points = [(x == point).to(mask.dtype) * mask for point in _POINTS]
        return torch.matmul(torch.cat([normal.flatten(-2), *points, mask], dim=-1), self.weight)

    @torch.no_grad()
    def observe(self, values: NDArray[np.float32]) -> None:
        """Take rows [n, all features] into the statistics; those with twice the values of last time are renewed.

        Renewal depends on counts alone, so that the same examples always give the same graph.
        """
        x = torch.from_numpy(values).to(self.sums.device)[:, self.columns].double()
        known = torch.isfinite(x)
        x = torch.where(known, x, torch.zeros_like(x))
        bends = torch.stack([torch.where(known, bend, torch.zeros_like(x)) for bend in bent(x)])
        self.seen += known.sum(0)
        self.sums += torch.cat([bends.sum(1), (bends * bends).sum(1)])
        renew = self.seen >= torch.clamp(2 * self.frozen_at, min=1)
        if bool(renew.any()):
            self._renew(renew)

    def _renew(self, which: Tensor) -> None:
        n = torch.clamp(self.seen, min=1)
        means = self.sums[:_BENDS] / n
        deviations = torch.sqrt(torch.clamp(self.sums[_BENDS:] / n - means * means, min=0))
        # A feature that never varied keeps scale 1: dividing by nearly nothing would make its first change a jump.
        scales = torch.where(deviations > 1e-6, 1 / deviations, torch.ones_like(deviations))
        self.center[:, which] = means.to(self.center.dtype)[:, which]
        self.scale[:, which] = scales.to(self.scale.dtype)[:, which]
        self.frozen_at[which] = self.seen[which]


class NumericInput(nn.Module):
    """All numeric features of shopper or item -> [..., outputs]."""

    def __init__(self, blocks: Sequence[Sequence[int]], order: Sequence[int], outputs: int) -> None:
        """`blocks`: feature ids, block by block; `order`: feature ids as the last axis of the input has them."""
        super().__init__()
        place = {feature: k for k, feature in enumerate(order)}
        self.block = nn.ModuleList(Block(ids, [place[i] for i in ids], outputs) for ids in blocks)

    @property
    def blocks(self) -> list[Block]:
        """The oldest first."""
        return [block for block in self.block if isinstance(block, Block)]

    @property
    def ids(self) -> list[list[int]]:
        """Feature ids, block by block."""
        return [list(block.ids) for block in self.blocks]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., features] -> [..., outputs]; block by block from the oldest, so that a new one changes no bit."""
        total: Tensor = self.blocks[0](x)
        for block in self.blocks[1:]:
            total = total + block(x)
        return total

    def observe(self, values: NDArray[np.float32]) -> None:
        """Statistics of rows [n, features]."""
        for block in self.blocks:
            block.observe(values)


def blocks_after(blocks: Sequence[Sequence[int]], order: Sequence[int]) -> list[list[int]]:
    """Blocks for a new list of features: dropped ones leave their block, new ones make one more.

    >>> blocks_after([[1, 2], [3]], [2, 3, 9, 8])
    [[2], [3], [9, 8]]
    """
    known = {feature for block in blocks for feature in block}
    kept = [[feature for feature in block if feature in set(order)] for block in blocks]
    new = [feature for feature in order if feature not in known]
    return [block for block in [*kept, new] if block]
