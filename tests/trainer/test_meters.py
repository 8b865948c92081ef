"""What the trainer tells about itself."""

from services.common.clock import ManualClock
from services.common.metrics import Metrics
from services.trainer.meters import Meters


def test_the_budget_of_private_learning_is_told_beside_what_was_spent() -> None:
    metrics = Metrics("trainer")
    Meters(metrics, ManualClock(0), budget=8.0)
    assert metrics.registry.get_sample_value("freshrank_trainer_privacy_budget") == 8
    assert metrics.registry.get_sample_value("freshrank_trainer_privacy_epsilon") == 0
