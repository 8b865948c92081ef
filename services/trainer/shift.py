"""When what the model is asked about has moved away from what it was released on, whatever the losses say."""

from services.trainer.distributions import Comparison, Sample
from services.trainer.triggers import Quiet


class ShiftTrigger(Quiet):
    """When the newest impressions differ from those at the last release, in one feature or in their label share.

    Both sides are full windows, so it is silent for the first two of them and for one behind each release. A feature
    that goes up by nature (a total, an age in days) moves away from any past: such inputs need a larger bound.
    """

    def __init__(self, bound: float, impressions: int = 2_000) -> None:
        """`bound`: largest population stability index of a feature; `impressions`: of a window."""
        self._bound = bound
        self._comparison = Comparison(impressions, impressions)
        self._name = f"shift({bound:g}, {impressions})"

    def watch(self, sample: Sample) -> None:
        """See `Trigger`."""
        self._comparison.watch(sample)

    def due(self, now_us: int, learned: int) -> str:
        """See `Trigger`; says which feature has moved, and how far."""
        moved = self._comparison.moved()
        return f"{self._name}: {moved}" if moved is not None and moved.index > self._bound else ""

    def fired(self, now_us: int, learned: int, seconds: float = 0.0) -> None:
        """See `Trigger`; what is usual now is the new measure."""
        self._comparison.mark()
