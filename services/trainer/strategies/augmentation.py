"""More from short histories: the same impression with a history that was cropped, masked or reordered."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.common.ids import share_of
from services.trainer.groups import Group
from services.trainer.strategies.base import Update
from services.trainer.strategies.parts import Part

Change = Literal["crop", "mask", "reorder"]
_SALT = 0xA06


class Augmentation(Part):
    """Learns a share of the impressions a second time with a changed history (CL4SRec; Xie et al., 2022).

    `crop` keeps a run of 60 % of the entries, `mask` hides 30 % of them, `reorder` lets a run of 60 % change ages among
    themselves, which is all that order is here. Which impressions is a hash of them, so that what
    appeared and its flips go together; a copy weighs what the impression weighs.
    """

    name = "augmentation"

    def __init__(self, change: Change = "mask", share: float = 0.5) -> None:
        super().__init__()
        self._change, self._share = change, share

    def more(self, update: Update) -> Sequence[Group]:
        """See `Part`."""
        chance = np.random.Generator(np.random.Philox(key=[_SALT, update.number]))
        return [copy for group in update.groups if (copy := self._copy(group, chance)) is not None]

    def _copy(self, group: Group, chance: np.random.Generator) -> Group | None:
        chosen = np.array([share_of(e.impression_id, "augmented") < self._share for e in group.examples])
        chosen &= group.arrays["history_mask"].sum(1) >= 2
        if not chosen.any():
            return None
        arrays = {**group.arrays, "history_mask": group.arrays["history_mask"].copy()}
        arrays["history_age"] = group.arrays["history_age"].copy()
        for k in np.flatnonzero(chosen):
            self._changed(arrays["history_mask"][k], arrays["history_age"][k], chance)
        arrays["history_row_mask"] = group.arrays["history_row_mask"] * arrays["history_mask"][:, :, None]
        return replace(
            group,
            copy=True,
            arrays=arrays,
            negatives=group.negatives * chosen[:, None],
            positives=group.positives * chosen[:, None, None],
        )

    def _changed(self, mask: NDArray[np.float32], age: NDArray[np.float32], chance: np.random.Generator) -> None:
        present = np.flatnonzero(mask)
        run = max(1, int(0.6 * len(present)))
        start = int(chance.integers(len(present) - run + 1))
        inside = present[start : start + run]
        if self._change == "crop":
            mask[np.setdiff1d(present, inside)] = 0
        elif self._change == "mask":
            mask[chance.choice(present, max(1, int(0.3 * len(present))), replace=False)] = 0
        else:
            age[inside] = chance.permutation(age[inside])
