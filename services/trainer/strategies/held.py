"""Impressions kept out of learning until a release: what is chosen by, apart from what is learned."""

from collections import deque
from collections.abc import Mapping, Sequence

from torch import Tensor

from services.common.ids import share_of
from services.trainer import remembered
from services.trainer.examples import Example
from services.trainer.groups import Group

_MOST = 2_000
"""Impressions kept at most; the newest."""


class HeldOut:
    """A share of impressions, by hash of their id, so that an impression and its flips go the same way."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._kept: deque[Example] = deque(maxlen=_MOST)

    def __contains__(self, example: Example) -> bool:
        return self._share > 0 and share_of(example.impression_id, "held-out") < self._share

    def leave_out(self, group: Group) -> None:
        """Take the weight of the held-out impressions of a group away."""
        for number, example in enumerate(group.examples):
            if example in self:
                group.negatives[number] = 0
                group.positives[number] = 0

    def keep(self, finished: Sequence[Example]) -> list[Example]:
        """Keep the held-out ones; returns the others."""
        self._kept.extend(example for example in finished if example in self)
        return [example for example in finished if example not in self]

    def take(self, chunk: int) -> list[list[Example]]:
        """All that were kept, in chunks; then none are."""
        kept = list(self._kept)
        self._kept.clear()
        return [kept[k : k + chunk] for k in range(0, len(kept), chunk)]

    def forget(self, user: str, before_us: int) -> None:
        """Drop a shopper's."""
        self._kept = deque((e for e in self._kept if e.user != user or e.event_time_us >= before_us), maxlen=_MOST)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return remembered.pack(list(self._kept))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The way back."""
        self._kept = deque(remembered.unpack(state), maxlen=_MOST)
