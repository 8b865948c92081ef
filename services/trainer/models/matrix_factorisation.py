"""Matrix factorisation with biases, attributes and implicit feedback (Koren, Bell, Volinsky, 2009).

    logit = b + b_u + b_i + q_i · (p_u + |N(u)|^(-1/2) Σ x_j + Σ y_a)

q_i is an item's vector (row + content), p_u the shopper's row, x_j those of the items in the history and y_a the
context. The biases are linear in these vectors and in the numeric features. Heads share the factors, and each weighs
them: a factorisation of shopper × item × head.
"""

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel


class MatrixFactorisation(EmbeddingModel):
    """Biases and the dot product of a shopper's vector and an item's."""

    model = "factorisation"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        dim = spec.row_dim
        self.implicit = nn.Linear(dim, dim, bias=False)
        self.attributes = nn.Linear(3 * sizes.context, dim)
        self.item_bias = nn.Linear(dim, self.heads)
        self.user_bias = nn.Linear(dim, self.heads, bias=False)
        self.factors = nn.Parameter(torch.ones(dim, self.heads))
        self.initialise_embeddings()
        self.initialise_out(self.item_bias)
        nn.init.normal_(self.user_bias.weight, std=0.05)

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """A bias a head."""
        return len(spec.heads)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        items, users = self.items(x), self.users(x)
        biases = self.item_bias(items) + (self.user_numeric(x["user"]) + self.user_bias(users)).unsqueeze(1)
        products = torch.matmul(items * users.unsqueeze(1), self.factors)
        total: Tensor = self.item_numeric(x["item"]) + (biases + products)
        return total

    def users(self, x: Inputs) -> Tensor:
        """Vectors [B, D] of the shoppers."""
        mask = x["history_mask"]
        count = torch.clamp(mask.sum(1, keepdim=True), min=1)
        history = (self.history(x) * mask.unsqueeze(-1)).sum(1) / torch.sqrt(count)
        beside = self.implicit(history) + self.attributes(self.contexts(x))
        vectors: Tensor = x["user_row"] * x["user_row_mask"] + beside
        return vectors
