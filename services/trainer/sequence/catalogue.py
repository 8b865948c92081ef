"""Ways of updating a sequence model, by the names that benchmarks and settings use."""

from collections.abc import Callable, Mapping

from services.trainer.sequence.ader import Ader
from services.trainer.sequence.ways import (
    Dropout,
    FineTune,
    Frozen,
    FullRetrain,
    LastPeriodOnly,
    Replay,
    Update,
)

WAYS: Mapping[str, Callable[[], Update]] = {
    "fine-tune": FineTune,
    "dropout": Dropout,
    "replay": Replay,
    "ader": Ader,
    "frozen": Frozen,
    "last-period-only": LastPeriodOnly,
    "full-retrain": FullRetrain,
}
