"""The serving model as a teacher of the one that learns."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.common.records import INITIAL
from services.trainer import scores
from services.trainer.groups import Floats
from services.trainer.strategies.parts import Part, Seen


class Distillation(Part):
    """Knowledge distillation (Hinton et al., 2015): (1 - share) · loss + share · T² · CE(σ(t / T), σ(z / T)).

    The teacher is the champion on the same rows; T² keeps the soft part's gradient as large as at T = 1. Until there is
    a champion, labels alone are learned. The soft target is of the impression when it appears: an action that comes
    later flips the hard part alone.
    """

    name = "distillation"

    def __init__(self, share: float = 0.3, temperature: float = 2.0) -> None:
        super().__init__()
        self._share, self._temperature = share, temperature

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        if seen.teacher is None:
            return None
        total = -self._share * seen.loss
        if seen.group.kind == INITIAL:
            total = total + self._share * self._soft(seen, seen.teacher)
        return total

    def _soft(self, seen: Seen, teacher: Floats) -> Tensor:
        t, device = self._temperature, seen.logits.device
        logits = torch.from_numpy(scores.logit(teacher).astype(np.float32)).to(device)
        weights = torch.from_numpy(seen.group.negatives).to(device).unsqueeze(-1) * seen.objective.heads
        soft = F.binary_cross_entropy_with_logits(seen.logits / t, torch.sigmoid(logits / t), reduction="none")
        total: Tensor = t * t * (soft * weights).sum()
        return total
