"""Transformer over the history and the candidate (Chen et al., 2019, behaviour sequence transformer).

The encoder is that of Vaswani et al. (2017), with the norm before each part (Xiong et al., 2020). Its sequence is the
history, each entry with its kind, place and age, and one candidate. Entries of the history see each other; the
candidate sees them and itself. That entries do not see the candidate is where this differs from the paper: the history
is encoded once for all candidates, and a layer compares L² + N × L pairs instead of N × L².
"""

import math

import torch
from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel, deep_and_wide

_NEVER = -1e9
"""Match of an entry that is not there: its weight is exactly 0 beside any that is. Finite, so that none is no NaN."""


class EncoderBlock(nn.Module):
    """Attention and a network of two layers, each added to what comes in."""

    def __init__(self, dim: int, ways: int) -> None:
        super().__init__()
        self.ways, self.width = ways, max(4, dim // ways)
        inner = ways * self.width
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner, bias=False)
        self.key = nn.Linear(dim, inner, bias=False)
        self.value = nn.Linear(dim, inner, bias=False)
        self.back = nn.Linear(inner, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, history: Tensor, mask: Tensor, *, itself: bool) -> Tensor:
        """x [B, T, D] after a look at the history [B, L, D] where `mask` [B, L] is 1; and at itself, when asked to.

        A place that sees nothing at all gets what has no meaning, never NaN: it is a masked one.
        """
        own, seen = self.before(x), self.before(history)
        query, key, value = self._split(self.query(own)), self._split(self.key(seen)), self._split(self.value(seen))
        match = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.width)
        there = (mask > 0).unsqueeze(1).unsqueeze(1)
        match = torch.where(there, match, torch.full_like(match, _NEVER))
        if itself:
            mine = (query * self._split(self.key(own))).sum(-1, keepdim=True) / math.sqrt(self.width)
            weights = torch.softmax(torch.cat([match, mine], dim=-1), dim=-1)
            mixed = torch.matmul(weights[..., :-1], value) + weights[..., -1:] * self._split(self.value(own))
        else:
            mixed = torch.matmul(torch.softmax(match, dim=-1), value)
        x = x + self.back(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.narrow(torch.relu(self.wide(self.between(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, ways × width] as [B, ways, T, width]."""
        return x.reshape(x.shape[0], x.shape[1], self.ways, self.width).transpose(1, 2)


class TransformerRanker(EmbeddingModel):
    """Encoder, then a deep part over the candidate's place, the shopper and the numeric features, and a wide one."""

    model = "transformer"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        dim, hidden = spec.row_dim, sizes.hidden[0]
        self.place = nn.Parameter(torch.randn(spec.history_length, dim) * 0.1)
        self.age = nn.Parameter(torch.randn(dim) * 0.01)
        self.block = nn.ModuleList(EncoderBlock(dim, sizes.attention) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(dim)
        self.from_user = nn.Linear(dim + 3 * sizes.context, hidden + self.heads, bias=False)
        self.from_item = nn.Linear(2 * dim, hidden + self.heads)
        self.deep = nn.Linear(hidden, sizes.hidden[1])
        self.out = nn.Linear(sizes.hidden[1], self.heads)
        self.initialise_numeric(hidden)
        self.initialise_embeddings()
        self.initialise_out(self.out)
        with torch.no_grad():
            for layer in (self.from_user, self.from_item):
                layer.weight[hidden:] = 0
            self.from_item.bias.zero_()

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """First layer of the deep part, and the wide part."""
        return sizes.hidden[0] + len(spec.heads)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        items = self.items(x)
        known = torch.cat([x["user_row"] * x["user_row_mask"], self.contexts(x)], dim=-1)
        shopper = self.user_numeric(x["user"]) + self.from_user(known)
        both = torch.cat([items, self.encoded(items, x)], dim=-1)
        sums = self.item_numeric(x["item"]) + (shopper.unsqueeze(1) + self.from_item(both))
        return deep_and_wide(sums, self.deep, self.out)

    def encoded(self, items: Tensor, x: Inputs) -> Tensor:
        """The candidates [B, N, D] at the end of the encoder."""
        history = self.history(x) + self.place + x["history_age"].unsqueeze(-1) * self.age
        mask, last = x["history_mask"], len(self.block) - 1
        for number, block in enumerate(self.block):
            items = block(items, history, mask, itself=True)
            if number < last:
                history = block(history, history, mask, itself=False)
        out: Tensor = self.norm(items)
        return out
