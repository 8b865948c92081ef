"""What models over vectors share: items, history and context as vectors, and a deep part beside a wide one.

An item is `content · projection + mask × row`: without a row it is its content (design D3).
"""

import math

import torch
from torch import Tensor, nn

from services.common.spec import CONTEXT_BUCKETS, ModelSpec
from services.trainer.models.base import Inputs, RankingModel, Sizes

KINDS = 16
"""Rows of the table of action kinds; a kind beyond is read as 0."""


class EmbeddingModel(RankingModel):
    """A ranking model with a vector [D] of each item, D = `spec.row_dim`."""

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        self.content = nn.Linear(spec.content_dim, spec.row_dim, bias=False)
        self.context = nn.Embedding(3 * CONTEXT_BUCKETS, sizes.context)
        self.history_kind = nn.Embedding(KINDS, spec.row_dim)

    def items(self, x: Inputs) -> Tensor:
        """Vectors [B, N, D] of the candidates."""
        vectors: Tensor = self.content(x["content"]) + x["row"] * x["row_mask"]
        return vectors

    def history(self, x: Inputs) -> Tensor:
        """Vectors [B, L, D] of what the shopper looked at, by item and kind of action; padding too."""
        items = self.content(x["history_content"]) + x["history_row"] * x["history_row_mask"]
        vectors: Tensor = items + self.history_kind(known_kinds(x["history_kind"]))
        return vectors

    def contexts(self, x: Inputs) -> Tensor:
        """[B, 3 × `sizes.context`]: the three fields beside each other."""
        places = torch.arange(3, device=x["context"].device) * CONTEXT_BUCKETS
        vectors: Tensor = self.context(x["context"] + places).flatten(1)
        return vectors

    def initialise_embeddings(self) -> None:
        """Small random vectors: a zero one would keep the rows it is multiplied with from learning."""
        nn.init.normal_(self.content.weight, std=0.3)
        nn.init.normal_(self.context.weight, std=0.1)
        nn.init.normal_(self.history_kind.weight, std=0.1)

    def initialise_numeric(self, deep: int) -> None:
        """Random weights into the first `deep` sums of the numeric features; the others stay zero."""
        for numeric in (self.user_numeric, self.item_numeric):
            for block in numeric.blocks:
                nn.init.normal_(block.weight[:, :deep], std=1 / math.sqrt(block.weight.shape[0]))

    def initialise_out(self, out: nn.Linear) -> None:
        """A small last layer: the first scores are near the prior, whatever the inputs."""
        nn.init.normal_(out.weight, std=0.05)
        with torch.no_grad():
            out.bias.fill_(self.sizes.prior)


def known_kinds(kinds: Tensor) -> Tensor:
    """Kinds of actions [...] with 0 for those that the tables do not have.

    >>> known_kinds(torch.tensor([2, 99])).tolist()
    [2, 0]
    """
    return torch.where(kinds < KINDS, kinds, torch.zeros_like(kinds))


def mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, D] of the vectors [B, L, D] where `mask` [B, L] is 1; zero where there is none.

    >>> mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
    [[3.0]]
    """
    return (vectors * mask.unsqueeze(-1)).sum(1) / torch.clamp(mask.sum(1, keepdim=True), min=1)


def deep_and_wide(sums: Tensor, deep: nn.Linear, out: nn.Linear) -> Tensor:
    """Logits [..., heads] of the sums [..., hidden + heads] of a first layer: two more layers, and what goes past them.

    After wide & deep learning (Cheng et al., 2016).
    """
    hidden, wide = torch.split(sums, [deep.in_features, out.out_features], dim=-1)
    total: Tensor = out(torch.relu(deep(torch.relu(hidden)))) + wide
    return total
