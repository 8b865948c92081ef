"""Learning how much of an update to keep, from what came after it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.mixing import ROWS, mixed, put, weights
from services.trainer.sequence.packed import pack
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import Following, State

FEATURES = 3
"""What the gate of a row is told: 1, ln(1 + clicks), 1 - cosine of old and new."""


class LearnedTransfer(Following):
    """Sequential meta-learning in small (SML; Zhang et al., SIGIR 2020): gates between old and new, learned.

    What is served is old + gate · (new - old): one gate for each dense tensor, and for each item row the logistic of a
    linear function of three features (`FEATURES`). When the next period comes, before anything else is learned of it,
    the gates are trained so that the last old and new weights, combined, do well on it; the update starts from that
    combination and its own result is gated by the same gates. SML's transfer is a convolutional network that reads
    the values of both rows, and it is trained in turns with the new weights; these gates have one number per tensor
    and three for rows, and learn once per period. Until there is a pair to learn from, new weights are served as they
    are: the first two updates are those of plain tuning.
    """

    def __init__(self, epochs: int = 1, rate: float = 0.1) -> None:
        """`epochs` over a period for the gates, by Adam with `rate`."""
        super().__init__()
        self.epochs, self.rate = epochs, rate
        self.logits = torch.zeros(0)
        """Of the dense tensors in their order, then weights of the features; empty until learned."""
        self.old: State = {}
        self.new: State = {}
        self.clicks = torch.zeros(0)
        """[V] on each item in what the last update trained on."""

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Learn the gates of the last update from what is new, and start from what they say."""
        if self.old:
            self._learn(learner, data)
            put(learner, self.combined(self.logits))
        self._start = weights(learner, self.known)
        self.clicks = torch.from_numpy(np.bincount(data.items, minlength=len(learner.rows))).float()

    def finish(self, learner: Learner, held_out: Sessions) -> None:
        """Keep both ends of the update, and serve what the gates say."""
        if not self.known:
            return
        self.old, self.new = self._start, weights(learner, len(learner.rows))
        if len(self.logits):
            put(learner, self.combined(self.logits))

    def state(self) -> State:
        """Gates, clicks and both ends."""
        ends = {f"old.{n}": v.clone() for n, v in self.old.items()} | {
            f"new.{n}": v.clone() for n, v in self.new.items()
        }
        return super().state() | {"logits": self.logits.clone(), "clicks": self.clicks.clone()} | ends

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        super().load(state)
        self.logits, self.clicks = state["logits"].clone(), state["clicks"].clone()
        self.old, self.new = (
            {n.removeprefix(end): v.clone() for n, v in state.items() if n.startswith(end)} for end in ("old.", "new.")
        )

    def _learn(self, learner: Learner, data: Sessions) -> None:
        if not len(self.logits):
            self.logits = torch.zeros(len(self.old) - 1 + FEATURES)
        leaf = self.logits.clone().requires_grad_()
        adam = torch.optim.Adam([leaf], lr=self.rate)
        learner.model.eval()
        for _ in range(self.epochs):
            order = learner.random.permutation(len(data))
            for batch in pack(data.take(order), learner.settings.sizes.length).batches(learner.settings.rows):
                combined = self.combined(leaf)
                put(learner, combined)
                seen = learner.see(batch)
                learner.backward(learner.loss(seen))
                adam.zero_grad()
                carry(learner, combined, seen)
                adam.step()
        learner.model.train()
        learner.rows.begin()
        self.logits = leaf.detach()

    def combined(self, logits: Tensor) -> State:
        """The weights of both ends, each with its gate."""
        dense = [name for name in self.old if name != ROWS]
        shares = dict(zip(dense, torch.sigmoid(logits[:-FEATURES]), strict=True))
        told = features(self.old[ROWS], self.new[ROWS], self.clicks)
        return mixed(self.old, self.new, shares | {ROWS: torch.sigmoid(told @ logits[-FEATURES:])[:, None]})


def features(old: Tensor, new: Tensor, clicks: Tensor) -> Tensor:
    """[V, 3] what the gates of the V rows of `old` [V, D] are told; `new` and `clicks` may have more rows.

    >>> features(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.zeros(1)).tolist()
    [[1.0, 0.0, 1.0]]
    """
    turned = 1 - torch.nn.functional.cosine_similarity(old, new[: len(old)], dim=1)
    return torch.stack([torch.ones(len(old)), clicks[: len(old)].log1p(), turned], dim=1)


def carry(learner: Learner, combined: Mapping[str, Tensor], seen: Seen) -> None:
    """Carry the gradients of the learner's weights and rows on to what they were combined by (the chain rule)."""
    dense = {f"model.{name}": weight.grad for name, weight in learner.model.named_parameters()}
    known = seen.slots[seen.slots < len(combined[ROWS])]
    slopes = [(combined[name], slope) for name, slope in dense.items() if slope is not None]
    if seen.rows.grad is not None:
        slopes.append((combined[ROWS][known], seen.rows.grad[: len(known)]))
    torch.autograd.backward([value for value, _ in slopes], [slope for _, slope in slopes])
