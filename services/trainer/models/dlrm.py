"""Deep learning recommendation model (Naumov et al., 2019): numbers and vectors meet as dot products of all pairs.

A bottom network makes one vector of all numeric features; it and the vectors of item, shopper, history and context
are the fields; a top network reads the bottom's vector and the dot product of each two different fields.
"""

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel, mean

FIELDS = 5
"""Bottom, item, shopper, history, context."""


class DLRM(EmbeddingModel):
    """Bottom network, pairwise dot products, top network."""

    model = "dlrm"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        dim, (first, second) = spec.row_dim, sizes.hidden
        self.bottom_bias = nn.Parameter(torch.zeros(first))
        self.bottom = nn.Linear(first, dim)
        self.context_field = nn.Linear(3 * sizes.context, dim, bias=False)
        self.top = nn.Linear(dim + FIELDS * (FIELDS - 1) // 2, first)
        self.deep = nn.Linear(first, second)
        self.out = nn.Linear(second, self.heads)
        places = torch.triu_indices(FIELDS, FIELDS, 1)
        self.register_buffer("places", places[0] * FIELDS + places[1], persistent=False)
        self.initialise_numeric(first)
        self.initialise_embeddings()
        self.initialise_out(self.out)

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """First layer of the bottom network."""
        return sizes.hidden[0]

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        numbers = self.item_numeric(x["item"]) + self.user_numeric(x["user"]).unsqueeze(1)
        bottom = torch.relu(self.bottom(torch.relu(numbers + self.bottom_bias)))
        items = self.items(x)
        shopper = [
            x["user_row"] * x["user_row_mask"],
            mean(self.history(x), x["history_mask"]),
            self.context_field(self.contexts(x)),
        ]
        fields = torch.stack([bottom, items, *(v.unsqueeze(1).expand_as(items) for v in shopper)], dim=-2)
        both = torch.cat([bottom, self.dots(fields)], dim=-1)
        total: Tensor = self.out(torch.relu(self.deep(torch.relu(self.top(both)))))
        return total

    def dots(self, fields: Tensor) -> Tensor:
        """Dot products [..., F (F - 1) / 2] of each two of the vectors [..., F, D], F = FIELDS."""
        every = torch.matmul(fields, fields.transpose(-1, -2)).flatten(-2)
        return torch.index_select(every, -1, self.get_buffer("places"))
