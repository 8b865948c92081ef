"""Learning old impressions again beside the new ones, so that what is rare now is not forgotten."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from services.trainer import remembered
from services.trainer.examples import Example
from services.trainer.groups import Group
from services.trainer.strategies.base import Update
from services.trainer.strategies.parts import Part

_SALT = 0x5EED


class Replay(Part):
    """A uniform sample of all finished impressions (reservoir; Vitter, 1985), some of it learned with every step.

    Experience replay after Rolnick et al. (2019). `share` is that of old impressions in what is learned.
    """

    name = "replay"

    def __init__(self, kept: float = 2000, share: float = 0.5) -> None:
        super().__init__()
        self._most, self._share = int(kept), share
        self._kept: list[Example] = []
        self.counters = {"seen": 0.0, "owed": 0.0}

    def more(self, update: Update) -> Sequence[Group]:
        """As many old impressions as the share asks for; what the step finished enters the sample after."""
        chance = np.random.Generator(np.random.Philox(key=[_SALT, update.number]))
        new = sum(len(group.negatives) for group in update.groups)
        self.counters["owed"] += new * self._share / (1 - self._share)
        count = min(int(self.counters["owed"]), len(self._kept))
        self.counters["owed"] -= int(self.counters["owed"])
        picked = [self._kept[k] for k in chance.choice(len(self._kept), count, replace=False)] if count else []
        for example in update.finished:
            self._sample(example, chance)
        return [update.encode(picked)] if picked else []

    def forget(self, user: str, before_us: int) -> None:
        """See `Part`."""
        self._kept = [e for e in self._kept if e.user != user or e.event_time_us >= before_us]

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        return remembered.pack(self._kept)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Part`."""
        self._kept = remembered.unpack(state)

    def _sample(self, example: Example, chance: np.random.Generator) -> None:
        self.counters["seen"] += 1
        if len(self._kept) < self._most:
            self._kept.append(example)
        elif (place := int(chance.integers(int(self.counters["seen"])))) < self._most:
            self._kept[place] = example
