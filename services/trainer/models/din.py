"""Deep interest network: each candidate attends to the shopper's history (Zhou et al., 2018).

Target attention with sigmoid weights, not softmax, so that how much matches is kept, and with a bias per kind of
action and for its age. A wide part (linear in the numeric inputs) stands beside a deep one, after Cheng et al. (2016).
"""

import math

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import KINDS, EmbeddingModel, deep_and_wide, known_kinds, mean


class Attention(nn.Module):
    """History [B, L, D] as each candidate [B, N, D] sees it."""

    def __init__(self, dim: int, ways: int) -> None:
        super().__init__()
        self.ways, self.dim = ways, dim
        self.query = nn.Linear(dim, ways * dim, bias=False)
        self.kind = nn.Embedding(KINDS, ways)
        self.age = nn.Parameter(torch.full((ways,), -0.1))
        self.bias = nn.Parameter(torch.zeros(ways))
        self.outputs = ways * (dim + 1)
        nn.init.zeros_(self.kind.weight)

    def forward(self, items: Tensor, history: Tensor, kind: Tensor, age: Tensor, mask: Tensor) -> Tensor:
        """[B, N, ways × (D + 1)]: weighted sums of history and the sums of the weights."""
        b, n, length = items.shape[0], items.shape[1], history.shape[1]
        queries = self.query(items).reshape(b, n * self.ways, self.dim)
        match = torch.matmul(queries, history.transpose(1, 2)).reshape(b, n, self.ways, length) / math.sqrt(self.dim)
        bias = self.kind(known_kinds(kind)) + age.unsqueeze(-1) * self.age + self.bias
        weights = torch.sigmoid(match + bias.transpose(1, 2).unsqueeze(1)) * mask.unsqueeze(1).unsqueeze(1)
        sums = torch.matmul(weights.reshape(b, n * self.ways, length), history).reshape(b, n, self.ways * self.dim)
        return torch.cat([sums, weights.sum(-1)], dim=-1)


class DeepInterestNetwork(EmbeddingModel):
    """Target attention, a deep part and a wide one."""

    model = "din"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        dim, outputs = spec.row_dim, self.numeric_sums(spec, sizes)
        self.attention = Attention(dim, sizes.attention)
        self.shopper = nn.Linear(2 * dim + 3 * sizes.context, dim)
        self.from_shopper = nn.Linear(dim + 3 * sizes.context, outputs, bias=False)
        self.from_item = nn.Linear(2 * dim + self.attention.outputs, outputs)
        self.deep = nn.Linear(sizes.hidden[0], sizes.hidden[1])
        self.out = nn.Linear(sizes.hidden[1], self.heads)
        self._initialise(sizes.hidden[0])

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """First layer of the deep part, and the wide part."""
        return sizes.hidden[0] + len(spec.heads)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        items, history, context, mask = self.items(x), self.history(x), self.contexts(x), x["history_mask"]
        user = x["user_row"] * x["user_row_mask"]
        shopper = self.shopper(torch.cat([user, mean(history, mask), context], dim=-1))
        seen = self.attention(items, history, x["history_kind"], x["history_age"], mask)
        wide_user = self.user_numeric(x["user"]) + self.from_shopper(torch.cat([shopper, context], dim=-1))
        both = torch.cat([items, items * shopper.unsqueeze(1), seen], dim=-1)
        sums = self.item_numeric(x["item"]) + (wide_user.unsqueeze(1) + self.from_item(both))
        return deep_and_wide(sums, self.deep, self.out)

    def _initialise(self, deep: int) -> None:
        # The wide part starts at zero and the deep one small: the first scores are the prior, whatever the inputs.
        self.initialise_numeric(deep)
        self.initialise_embeddings()
        with torch.no_grad():
            for layer in (self.from_shopper, self.from_item):
                layer.weight[deep:] = 0
            self.from_item.bias.zero_()
        self.initialise_out(self.out)
