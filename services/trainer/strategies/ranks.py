"""Learning to rank beside the log-loss: what was acted on should stand before what was shown with it and was not.

The log-loss keeps scores probabilities, on which calibration and arms rest; these terms look at differences inside one
answer alone, so what all of its candidates have in common is left to the log-loss (Yan et al., 2022, on why both).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from services.trainer.groups import Group
from services.trainer.strategies.parts import Part, Seen


class Pairwise(Part):
    """share · the mean of ln(1 + exp(z_j - z_i)) over others j shown with an item i that was acted on.

    RankNet (Burges et al., 2005); each action counts as one, however long its list.
    """

    name = "pairwise"

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        self._share = share

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        acted = np.nonzero(seen.group.positives > 0)
        others = shown(seen.group)[acted[0]]
        others &= seen.group.positives[acted[0], :, acted[2]] <= 0
        if not others.any():
            return None
        mine = seen.logits[acted].unsqueeze(1)
        theirs = seen.logits[acted[0], :, acted[2]]
        beside = torch.from_numpy(others).to(seen.logits.device)
        losses = (F.softplus(theirs - mine) * beside).sum(1) / beside.sum(1).clamp(min=1)
        total: Tensor = self._share * (losses * _weights(seen, acted)).sum()
        return total


class Listwise(Part):
    """share · -ln of the softmax over the items of an answer, at those that were acted on.

    The cross-entropy of the first place (ListNet; Cao et al., 2007).
    """

    name = "listwise"

    def __init__(self, share: float = 0.3) -> None:
        super().__init__()
        self._share = share

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        acted = np.nonzero((seen.group.positives > 0) & shown(seen.group)[:, :, None])
        if not len(acted[0]):
            return None
        listed = torch.from_numpy(shown(seen.group)).to(seen.logits.device).unsqueeze(-1)
        chances = torch.log_softmax(seen.logits.masked_fill(~listed, -torch.inf), dim=1)
        total: Tensor = -self._share * (chances[acted] * _weights(seen, acted)).sum()
        return total


def shown(group: Group) -> NDArray[np.bool_]:
    """[B, N]: whether each candidate was shown; others have no label."""
    out = np.zeros(group.negatives.shape, np.bool_)
    out[group.layout.items_at] = [item.shown for item in group.layout.items]
    return out


def _weights(seen: Seen, acted: tuple[NDArray[np.int64], ...]) -> Tensor:
    """Of each action: as in the loss beside."""
    device = seen.logits.device
    return torch.from_numpy(seen.group.positives[acted]).to(device) * seen.objective.free[acted[2]]
