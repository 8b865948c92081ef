"""Logistic regression (Richardson, Dominowska, Ragno, 2007): linear in everything that is known, sigmoid on top.

The baseline that every other model has to beat, and the one that can be read: a weight a column. What only the shopper
has moves all candidates alike, so it changes how likely a click is, never the order.
"""

import torch
from torch import Tensor, nn

from services.common.spec import CONTEXT_BUCKETS, ModelSpec
from services.trainer.models.base import Inputs, RankingModel, Sizes
from services.trainer.models.embeddings import mean


class LogisticRegression(RankingModel):
    """sigmoid(w · h(u, i)): numeric features, content, rows, history and context in one sum."""

    model = "logistic"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        self.item_content = nn.Linear(spec.content_dim, self.heads)
        self.item_row = nn.Linear(spec.row_dim, self.heads, bias=False)
        self.user_row = nn.Linear(spec.row_dim, self.heads, bias=False)
        self.history_content = nn.Linear(spec.content_dim, self.heads, bias=False)
        self.history_row = nn.Linear(spec.row_dim, self.heads, bias=False)
        self.context = nn.Embedding(3 * CONTEXT_BUCKETS, self.heads)
        for zero in (self.item_content, self.history_content, self.context):
            nn.init.zeros_(zero.weight)
        # Rows start at zero: were these weights zero too, neither would ever move.
        for row in (self.item_row, self.user_row, self.history_row):
            nn.init.normal_(row.weight, std=0.3)
        nn.init.constant_(self.item_content.bias, sizes.prior)

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """One a head."""
        return len(spec.heads)

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        mask = x["history_mask"]
        places = torch.arange(3, device=mask.device) * CONTEXT_BUCKETS
        history = self.history_content(mean(x["history_content"], mask))
        history = history + self.history_row(mean(x["history_row"] * x["history_row_mask"], mask))
        context = self.context(x["context"] + places).sum(1)
        shopper = self.user_row(x["user_row"] * x["user_row_mask"]) + history + context
        item = self.item_content(x["content"]) + self.item_row(x["row"] * x["row_mask"])
        total: Tensor = self.item_numeric(x["item"]) + ((self.user_numeric(x["user"]) + shopper).unsqueeze(1) + item)
        return total
