"""What the publisher tells about itself."""

from services.common.metrics import Metrics
from services.publisher.checks import at_least, at_most, verdict
from services.publisher.meters import Meters
from services.publisher.rows import RowReason


def test_how_near_a_delta_came_to_its_bounds_is_told_by_check() -> None:
    metrics = Metrics("publisher")
    item, user = at_most(RowReason.NORM, 12, 16, "item"), at_most(RowReason.NORM, 4, 16, "user")
    unknown = at_most(RowReason.CHAMPION_LOSS, float("nan"), 1)
    unbounded = at_most(RowReason.PROBE, 3, float("inf"))
    Meters(metrics, lambda: 0).judged(verdict([item, user, unknown, unbounded, at_least(RowReason.ORDER, 2, 1)]))
    (found,) = [family for family in metrics.registry.collect() if family.name == "freshrank_publisher_row_checks"]
    shares = {sample.labels["check"]: sample.value for sample in found.samples}
    assert shares == {"norm": 0.75, "champion_loss": float("inf"), "probe": 0}
