"""Virtual clicks: a little benefit of the doubt for items that were hardly shown.

A heuristic, without a paper of its own: what pseudo-counts of a Beta prior are to a click rate, virtual positives are
to a row. They are no examples: nothing of them is judged, counted, archived or learned by anything but the rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from services.common.records import INITIAL
from services.trainer.groups import Floats, Group
from services.trainer.strategies.base import Update
from services.trainer.strategies.oversampling import Shown
from services.trainer.strategies.parts import Part, Seen


class VirtualClicks(Part):
    """Items shown in up to `impressions` lists get `clicks` virtual clicks in all, evenly over those lists.

    Each is a row marked as virtual by what it is made of: a positive of the first head with a weight of clicks /
    impressions, whose gradient reaches the row of its item and nothing else, neither the dense weights nor the
    rows of others. So no one else's scores move, and an item without a row (not yet admitted) gets none. An item
    that is still rare after the counts have faded gets them anew.
    """

    name = "virtual_clicks"

    def __init__(self, impressions: float = 50, clicks: float = 1.0) -> None:
        super().__init__()
        self._impressions, self._clicks = int(impressions), clicks
        self._shown = Shown()
        self.counters = {"given": 0.0}

    def more(self, update: Update) -> Sequence[Group]:
        """See `Part`: counts, and brings nothing."""
        for group in update.groups:
            if group.kind == INITIAL:
                self._shown.add(group)
        return ()

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`: always 0, with the gradient of the virtual clicks by the rows."""
        if seen.group.kind != INITIAL or seen.group.copy:
            return None
        weights = self.weights(seen.group)
        if not weights.any():
            return None
        self.counters["given"] += float(weights.sum())
        given = torch.from_numpy(weights).to(seen.logits.device) * seen.objective.heads[0]
        loss = (seen.objective.point.one(seen.logits[:, :, 0]) * given).sum()
        (slope,) = torch.autograd.grad(loss, [seen.inputs["row"]], retain_graph=True, allow_unused=True)
        if slope is None:
            return None
        pull = (slope.detach() * seen.inputs["row"]).sum()
        return pull - pull.detach()

    def weights(self, group: Group) -> Floats:
        """[B, N]: of the virtual click of each candidate that is learned and has a row."""
        rare = (self._shown.counts(group) <= self._impressions) & (group.arrays["row_mask"][:, :, 0] > 0)
        return rare.astype(np.float32) * np.float32(self._clicks / self._impressions)

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        return self._shown.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Part`."""
        self._shown.load(state)
