"""Two towers for retrieval: which items of the whole catalogue to look at, as one dot product.

Trained on clicks with a sampled softmax over recently shown items, corrected for how often each is shown
(logQ; Yi et al., 2019): otherwise popular items, being the negatives most often, would be pushed down.
Rows are read, never moved: ranking alone decides what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.groups import Group
from services.trainer.keyindex import Keys

POOL = 512
"""Shown items kept as negatives."""

_TAKE = 64
"""Of one step's shown items, how many enter the pool."""


class TwoTower(nn.Module):
    """item = content · C + row · W; shopper = user_row · U + mean over history of items; score = dot product."""

    def __init__(self, spec: ModelSpec, dim: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(spec.content_dim, dim) / np.sqrt(dim))
        self.row = nn.Parameter(torch.zeros(spec.row_dim, dim))
        self.user_row = nn.Parameter(torch.zeros(spec.row_dim, dim))

    def items(self, content: Tensor, row: Tensor) -> Tensor:
        """Vectors [..., R] of items; an absent row is all zero."""
        return torch.matmul(content, self.content) + torch.matmul(row, self.row)

    def shoppers(self, user_row: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """Vectors [B, R]; `history` [B, L, R] are item vectors, `mask` [B, L]."""
        mean = (history * mask.unsqueeze(-1)).sum(1) / torch.clamp(mask.sum(1, keepdim=True), min=1)
        return torch.matmul(user_row, self.user_row) + mean


@dataclass
class Pool:
    """Recently shown items: content, key, and where the next one goes."""

    content: Tensor
    keys: Tensor
    """[POOL] int64 views of the 64-bit keys: torch has no unsigned ones that safetensors keeps."""
    count: Tensor

    @staticmethod
    def empty(content_dim: int) -> "Pool":
        """Nothing shown yet."""
        zero = torch.zeros(1, dtype=torch.int64)
        return Pool(torch.zeros(POOL, content_dim), torch.zeros(POOL, dtype=torch.int64), zero)

    def add(self, group: Group) -> None:
        """Take some of the group's candidates, evenly spread."""
        picked = picked_of(len(group.layout.items))
        places = tuple(axis[picked] for axis in group.layout.items_at)
        self.put(group.arrays["content"][places], group.item_keys[picked])

    def put(self, content: NDArray[np.float32], keys: Keys) -> None:
        """Take items: content [n, content_dim] and keys [n]."""
        at = (int(self.count) + np.arange(len(keys))) % POOL
        self.content[at] = torch.from_numpy(content)
        self.keys[at] = torch.from_numpy(keys.view(np.int64).copy())
        self.count += len(keys)

    @property
    def size(self) -> int:
        """Items in it."""
        return min(POOL, int(self.count))

    def key_array(self) -> Keys:
        """Keys [size]."""
        keys: Keys = self.keys[: self.size].numpy().view(np.uint64)
        return keys


def picked_of(shown: int) -> NDArray[np.int64]:
    """Which of so many candidates enter the pool."""
    return np.unique(np.linspace(0, shown - 1, min(_TAKE, shown)).astype(np.int64))


def loss(towers: TwoTower, clicks: Group, pool: Pool, pool_rows: Tensor) -> Tensor:
    """Sampled softmax of each clicked item against the pool, weighted; 0 without a click or a pool."""
    at = np.nonzero(clicks.positives[:, :, 0])
    if not len(at[0]) or not pool.size:
        return torch.zeros(())
    x = {name: torch.from_numpy(array) for name, array in clicks.arrays.items()}
    history = towers.items(x["history_content"], x["history_row"] * x["history_row_mask"])
    shoppers = towers.shoppers(x["user_row"] * x["user_row_mask"], history, x["history_mask"])[at[0]]
    positives = towers.items(x["content"][at], (x["row"] * x["row_mask"])[at])
    negatives = towers.items(pool.content[: pool.size], pool_rows)
    keys = pool.key_array()
    own = clicks.item_keys[_flat(clicks, at)]
    logits = shoppers @ negatives.T - torch.from_numpy(_log_share(keys, keys))
    logits = logits.masked_fill(torch.from_numpy(own[:, None] == keys[None, :]), float("-inf"))
    true = (shoppers * positives).sum(-1, keepdim=True) - torch.from_numpy(_log_share(own, keys))[:, None]
    chosen = torch.log_softmax(torch.cat([true, logits], dim=-1), dim=-1)[:, 0]
    return -(chosen * torch.from_numpy(clicks.positives[:, :, 0][at])).sum()


def _flat(group: Group, at: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Places in the layout's flat list of candidates of (impression, place) pairs."""
    table = np.zeros(group.negatives.shape, np.int64)
    table[group.layout.items_at] = np.arange(len(group.layout.items))
    out: NDArray[Any] = table[at[0], at[1]]
    return out


def _log_share(keys: Keys, pool: Keys) -> NDArray[Any]:
    """ln of the share of the pool that each key has; one place at least, for those not in it."""
    unique, counts = np.unique(pool, return_counts=True)
    at = np.minimum(np.searchsorted(unique, keys), len(unique) - 1)
    found = np.where(unique[at] == keys, counts[at], 1)
    return np.log(found / len(pool)).astype(np.float32)
