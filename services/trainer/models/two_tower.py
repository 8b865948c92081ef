"""Two towers (Covington, Adams, Sargin, 2016; Yi et al., 2019): a network for each side, then a dot product.

Shopper and item meet nowhere before the dot product; each head has its own vector of the shopper, all share the
item's. Item features that depend on the shopper (cross features) are inputs of the item's tower here, which ranks:
the towers by which candidates are found in the whole catalogue are those of `retrieval.py`, without them.
"""

import math

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel, mean


class TwoTowers(EmbeddingModel):
    """Scaled dot product of a shopper's vector per head and an item's."""

    model = "two_tower"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        hidden, self.width = sizes.hidden
        self.from_user = nn.Linear(2 * spec.row_dim + 3 * sizes.context, hidden)
        self.from_item = nn.Linear(spec.row_dim, hidden)
        self.user_out = nn.Linear(hidden, self.heads * self.width)
        self.item_out = nn.Linear(hidden, self.width)
        self.bias = nn.Parameter(torch.full((self.heads,), sizes.prior))
        self.initialise_numeric(hidden)
        self.initialise_embeddings()

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """First layer of a tower."""
        return sizes.hidden[0]

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        dots = torch.matmul(self.item_vectors(x), self.user_vectors(x).transpose(1, 2))
        return dots / math.sqrt(self.width) + self.bias

    def user_vectors(self, x: Inputs) -> Tensor:
        """[B, heads, width]."""
        history = mean(self.history(x), x["history_mask"])
        known = torch.cat([x["user_row"] * x["user_row_mask"], history, self.contexts(x)], dim=-1)
        hidden = torch.relu(self.user_numeric(x["user"]) + self.from_user(known))
        vectors: Tensor = self.user_out(hidden).unflatten(-1, (self.heads, self.width))
        return vectors

    def item_vectors(self, x: Inputs) -> Tensor:
        """[B, N, width]."""
        hidden = torch.relu(self.item_numeric(x["item"]) + self.from_item(self.items(x)))
        vectors: Tensor = self.item_out(hidden)
        return vectors
