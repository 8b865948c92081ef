"""Ways of updating a sequence model, by the names that benchmarks and settings use."""

from collections.abc import Callable, Mapping

from services.trainer.sequence.ader import Ader
from services.trainer.sequence.anchors import ChosenFusion, ElasticWeights, Fusion, OnlineElasticWeights
from services.trainer.sequence.covisits import WithCovisits
from services.trainer.sequence.distillation import Distillation
from services.trainer.sequence.lowrank import LowRank
from services.trainer.sequence.selfsupervised import ContrastiveSessions, MaskedItems
from services.trainer.sequence.transfer import LearnedTransfer
from services.trainer.sequence.ways import (
    BaseAlone,
    BaseDropout,
    Dropout,
    FineTune,
    Frozen,
    FullRetrain,
    LastPeriodOnly,
    Replay,
    Untrained,
    Update,
)


class BaseFusion(BaseAlone, Fusion):
    """Fusion after a base that was trained with dropout."""


class BaseAder(BaseAlone, Ader):
    """ADER after a base that was trained with dropout."""


WAYS: Mapping[str, Callable[[], Update]] = {
    "fine-tune": FineTune,
    "dropout": Dropout,
    "base-dropout": BaseDropout,
    "base-fusion": BaseFusion,
    "base-fusion-covisits": lambda: WithCovisits(BaseFusion()),
    "base-ader": BaseAder,
    "replay": Replay,
    "ader": Ader,
    "ewc": ElasticWeights,
    "ewc-online": OnlineElasticWeights,
    "lora": LowRank,
    "fusion": Fusion,
    "fusion-chosen": ChosenFusion,
    "distillation": Distillation,
    "sml": LearnedTransfer,
    "masked-items": MaskedItems,
    "contrastive": ContrastiveSessions,
    "frozen": Frozen,
    "covisits": lambda: WithCovisits(Untrained(), share=1.0),
    "last-period-only": LastPeriodOnly,
    "full-retrain": FullRetrain,
}
