"""What the model of the last update would have answered, as a soft target of the one that learns."""

import copy

import torch
from torch import Tensor

from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.packed import NONE, Packed
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import Following


class Teacher:
    """A model as it was, without dropout."""

    def __init__(self, learner: Learner, known: int) -> None:
        """`known`: rows it has an opinion of; the others have only been given."""
        self.known = known
        self._model = copy.deepcopy(learner.model).eval()
        self._table = learner.model.items(learner.rows.values.clone()).detach()

    def crossed(self, seen: Seen, temperature: float = 1.0) -> Tensor:
        """Cross-entropy [n] of its answers and the learner's, over the candidates it knows.

        Both are softmax(logits / temperature) with each candidate counted as often as in the loss.
        """
        old = torch.nonzero(seen.slots[seen.sample.slots] < self.known)[:, 0]
        among, log_weights = seen.sample.slots[old], seen.sample.log_weights[old]
        batch = seen.batch
        with torch.no_grad():
            hidden = self._model(self._table[batch.inputs], batch.sessions)[batch.targets != NONE]
            logits = hidden @ self._table[seen.slots[among]].T
            wanted = torch.softmax(logits / temperature + log_weights, dim=-1)
        answers = torch.log_softmax(seen.hidden @ seen.vectors[among].T / temperature + log_weights, dim=-1)
        return -(wanted * answers).sum(1)


class Distillation(Following):
    """Learning without forgetting (Li and Hoiem, 2017): loss + weight · T² · the teacher's cross-entropy.

    The teacher is the model of the last update and is asked about what is new: nothing of the past is kept. T² keeps
    the soft part's gradient as large as at T = 1 (Hinton et al., 2015). Only places count whose session has so far
    shown nothing but items that the teacher knows.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 2.0) -> None:
        """Both as Li and Hoiem set them."""
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self._teacher: Teacher | None = None

    def begin(self, learner: Learner, data: Sessions) -> None:
        """The last model becomes the teacher."""
        self._teacher = Teacher(learner, self.known) if self.known else None

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """The soft part; None when the teacher knows no place of the batch."""
        if self._teacher is None:
            return None
        where = familiar(seen.batch, self.known)[seen.batch.targets != NONE]
        if not bool(where.any()):
            return None
        return self.weight * self.temperature**2 * self._teacher.crossed(seen, self.temperature)[where].mean()


def familiar(batch: Packed, known: int) -> Tensor:
    """[R, L] whether a place and those before it in its session hold slots below `known` alone.

    >>> row = torch.tensor([[1, 9, 1, 2]])
    >>> familiar(Packed(row, row, torch.tensor([[1, 1, 1, 2]])), 9).tolist()
    [[True, False, False, True]]
    """
    length = batch.sessions.shape[1]
    back = torch.ones(length, length, dtype=torch.bool).tril()
    same = (batch.sessions[:, :, None] == batch.sessions[:, None, :]) & back
    strange: Tensor = (same & (batch.inputs >= known)[:, None, :]).any(2)
    return ~strange
