"""Which items of an impression are learned from, and with what weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from freshrank.v1.events_pb2 import Degradation, Impression

from services.common.ids import share_of
from services.common.records import BOT

_TRAINED = frozenset(
    (Degradation.DEGRADATION_UNSPECIFIED, Degradation.DEGRADATION_NONE, Degradation.DEGRADATION_STALE_FEATURES)
)


@dataclass(frozen=True)
class Sampling:
    """Down-sampling by hash: the same pair of impression and item is always kept or always left out."""

    rate: float = 1.0
    """Share of the pairs that is kept; each weighs 1 / rate, so sums stay what they were."""
    unshown: int = 8
    """Sampled candidates that were scored and not shown, at most so many of an impression."""
    unshown_weight: float = 1.0
    """Their weight beside 1 for what was shown; 0 = joined and counted only."""

    def considered(self, shown: Impression) -> list[int]:
        """Indexes of the items an impression is about: all shown, and the first unshown ones."""
        out, unshown = [], 0
        for index, item in enumerate(shown.items):
            if item.shown:
                out.append(index)
            elif unshown < self.unshown:
                unshown += 1
                out.append(index)
        return out

    def kept(self, shown: Impression, considered: Sequence[int]) -> list[int]:
        """Those of the considered that are learned from."""
        if self.rate >= 1:
            return list(considered)
        return [index for index in considered if self.keeps(shown.impression_id, shown.items[index].item_id)]

    def keeps(self, impression_id: str, item: str) -> bool:
        """Whether a pair is kept."""
        return self.rate >= 1 or share_of(f"{impression_id}:{item}", "sample") < self.rate

    def weight(self, base: float, is_shown: bool) -> float:
        """Weight of an item in an impression of this base weight."""
        return base if is_shown else base * self.unshown_weight

    def base_weight(self, shown: Impression, verdict: int) -> float:
        """1 / rate; 0 for what a bot saw and for answers below stale features: joined and counted, not trained."""
        if verdict & BOT or shown.degradation not in _TRAINED:
            return 0.0
        return 1.0 / self.rate
