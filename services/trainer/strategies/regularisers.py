"""Terms beside the loss: adversarial rows, the graph of what is clicked together, pseudo-labels."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.common.records import FLIP, INITIAL
from services.trainer.strategies.parts import Part, Seen

_ROWS = ("row", "history_row", "user_row")


class AdversarialRows(Part):
    """Learn also on rows moved against the model: share · loss(rows + radius · g / |g|).

    Adversarial personalised ranking (He et al., 2018), with the fast gradient's direction per row.
    """

    name = "adversarial"

    def __init__(self, radius: float = 0.1, share: float = 0.5) -> None:
        super().__init__()
        self._radius, self._share = radius, share

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        rows = [seen.inputs[name] for name in _ROWS if name in seen.inputs]
        slopes = torch.autograd.grad(seen.loss, rows, retain_graph=True, allow_unused=True)
        moved = dict(seen.inputs)
        for name, slope in zip(_ROWS, slopes, strict=True):
            if slope is not None:
                length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
                moved[name] = moved[name] + self._radius * slope / torch.clamp(length, min=1e-12)
        return self._share * seen.objective(seen.ranker.logits(moved), seen.group)


class CoClicks(Part):
    """Rows of items that one shopper acts on one after the other are pulled together: strength · Σ |r_i - r_j|².

    The edges of the co-click (and co-purchase) graph as they come, a Laplacian regulariser (Belkin et al., 2006),
    with the kind of shopping as the graph that He, McAuley (2016) take from co-purchases.
    """

    name = "co_clicks"

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self._strength = strength

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`: the item acted on, against the newest in the history that have rows."""
        at = np.nonzero(seen.group.positives.sum(-1) > 0)
        if seen.group.kind != FLIP or not len(at[0]):
            return None
        mine = seen.inputs["row"][at].unsqueeze(1)
        known = (seen.inputs["row_mask"][at] * seen.inputs["history_row_mask"][at[0]].squeeze(-1)).unsqueeze(-1)
        apart = ((seen.inputs["history_row"][at[0]] - mine) * known).square().sum()
        total: Tensor = self._strength * apart
        return total


class PseudoLabels(Part):
    """What was not shown and is surely not clicked counts as label 0 (pseudo-labels; Lee, 2013).

    Candidates that were sampled but not shown have no label; those that the model scores below `most` are learned with
    it, at `share` of a candidate's weight. Clicks are too rare to be sure of any: there are no pseudo-positives.
    """

    name = "pseudo_labels"

    def __init__(self, most: float = 0.02, share: float = 0.5) -> None:
        super().__init__()
        self._most, self._share = most, share

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        if seen.group.kind != INITIAL:
            return None
        unknown = (seen.group.arrays["mask"] > 0) & (seen.group.negatives == 0)
        if not unknown.any():
            return None
        sure = (torch.sigmoid(seen.logits).detach() < self._most) * torch.from_numpy(unknown).unsqueeze(-1)
        losses = F.softplus(seen.logits) * sure.to(seen.logits.device) * seen.objective.free
        total: Tensor = self._share * losses.sum()
        return total
