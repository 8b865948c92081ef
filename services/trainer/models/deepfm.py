"""DeepFM (Guo et al., 2017): a factorisation machine and a deep network over the same fields.

Fields: item, the item's numeric features, the shopper's row, history, context and numeric features, a vector each.
The factorisation machine (Rendle, 2010) sums the products of all pairs of fields; with one weight per factor and head,
all ones to begin with (divided by the root of their number), so that heads can differ.
"""

import math

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel, deep_and_wide, mean


class DeepFM(EmbeddingModel):
    """First order, pairs of fields, and a deep part."""

    model = "deepfm"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        dim, hidden = spec.row_dim, sizes.hidden[0]
        self.dim = dim
        self.context_field = nn.Linear(3 * sizes.context, dim, bias=False)
        self.from_user = nn.Linear(4 * dim, hidden + self.heads, bias=False)
        self.from_item = nn.Linear(2 * dim, hidden + self.heads)
        self.factors = nn.Parameter(torch.full((dim, self.heads), 1 / math.sqrt(dim)))
        self.deep = nn.Linear(hidden, sizes.hidden[1])
        self.out = nn.Linear(sizes.hidden[1], self.heads)
        self.initialise_embeddings()
        self.initialise_out(self.out)
        with torch.no_grad():
            for layer in (self.from_user, self.from_item):
                layer.weight[hidden:] = 0
            self.from_item.bias.zero_()

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """A field, and the first order."""
        return spec.row_dim + len(spec.heads)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        user, user_first = torch.split(self.user_numeric(x["user"]), [self.dim, self.heads], dim=-1)
        item, item_first = torch.split(self.item_numeric(x["item"]), [self.dim, self.heads], dim=-1)
        history = mean(self.history(x), x["history_mask"])
        context = self.context_field(self.contexts(x))
        of_user = torch.stack([user, x["user_row"] * x["user_row_mask"], history, context], dim=-2)
        of_item = torch.stack([item, self.items(x)], dim=-2)
        sums = self.from_item(of_item.flatten(-2)) + self.from_user(of_user.flatten(-2)).unsqueeze(1)
        first = item_first + user_first.unsqueeze(1)
        # The shopper's half of both sums is made once, not once per candidate.
        total = of_item.sum(-2) + of_user.sum(-2).unsqueeze(1)
        squares = (of_item * of_item).sum(-2) + (of_user * of_user).sum(-2).unsqueeze(1)
        second = torch.matmul(pairs(total, squares), self.factors)
        return deep_and_wide(sums, self.deep, self.out) + first + second


def pairs(total: Tensor, squares: Tensor) -> Tensor:
    """Σ over i < j of v_i × v_j, value by value, from Σ v_i and Σ v_i²: linear in the fields (Rendle, 2010).

    >>> pairs(torch.tensor(2.0 + 3 + 4), torch.tensor(4.0 + 9 + 16)).item()  # 2 × 3 + 2 × 4 + 3 × 4
    26.0
    """
    return (total * total - squares) / 2
