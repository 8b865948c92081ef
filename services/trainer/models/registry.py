"""Ranking models by the name that the setting `model` gives them."""

from collections.abc import Mapping
from types import MappingProxyType

from services.trainer.models.base import RankingModel
from services.trainer.models.deepfm import DeepFM
from services.trainer.models.din import DeepInterestNetwork
from services.trainer.models.dlrm import DLRM
from services.trainer.models.embedding_sum import EmbeddingSum
from services.trainer.models.logistic import LogisticRegression
from services.trainer.models.matrix_factorisation import MatrixFactorisation
from services.trainer.models.transformer import TransformerRanker
from services.trainer.models.two_tower import TwoTowers

_ALL: tuple[type[RankingModel], ...] = (
    LogisticRegression,
    MatrixFactorisation,
    EmbeddingSum,
    TwoTowers,
    DeepFM,
    DLRM,
    DeepInterestNetwork,
    TransformerRanker,
)

MODELS: Mapping[str, type[RankingModel]] = MappingProxyType({made.model: made for made in _ALL})
"""The simplest first."""

UNNAMED = "din"
"""Model of the checkpoints that do not say which: they are older than the choice."""
