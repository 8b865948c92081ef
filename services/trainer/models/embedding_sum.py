"""Sum of embeddings (Joulin et al., 2017, fastText): a bag of vectors added up, one linear layer on the sum.

Item, shopper, history, context and numeric features each give a vector of the same length. Nothing is multiplied with
anything, so the shopper moves all candidates alike: a baseline for what items alone explain.
"""

from torch import Tensor, nn

from services.common.spec import ModelSpec
from services.trainer.models.base import Inputs, Sizes
from services.trainer.models.embeddings import EmbeddingModel, mean


class EmbeddingSum(EmbeddingModel):
    """One linear layer on the sum of all vectors."""

    model = "embedding_sum"

    def build(self, spec: ModelSpec, sizes: Sizes) -> None:
        """See `RankingModel.build`."""
        super().build(spec, sizes)
        self.fields = nn.Linear(3 * sizes.context, spec.row_dim, bias=False)
        self.out = nn.Linear(spec.row_dim, self.heads)
        self.initialise_embeddings()
        nn.init.normal_(self.out.weight, std=0.3)
        nn.init.constant_(self.out.bias, sizes.prior)

    @staticmethod
    def numeric_sums(spec: ModelSpec, sizes: Sizes) -> int:
        """A vector."""
        return spec.row_dim

    def logits(self, x: Inputs) -> Tensor:
        """Logits [B, N, heads], of padding too."""
        shopper = x["user_row"] * x["user_row_mask"] + mean(self.history(x), x["history_mask"])
        shopper = self.user_numeric(x["user"]) + (shopper + self.fields(self.contexts(x)))
        total: Tensor = self.out(self.item_numeric(x["item"]) + (self.items(x) + shopper.unsqueeze(1)))
        return total
