"""Staying near what was: elastic weight consolidation, and parameter fusion."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from services.trainer.sequence.learner import Learner, Seen
from services.trainer.sequence.mixing import ROWS, mixed, put, weights
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.sessions import Sessions
from services.trainer.sequence.ways import Following, State


class ElasticWeights(Following):
    """Elastic weight consolidation: loss + strength / (2 N) · Σ F (θ - θ*)² (Kirkpatrick et al., 2017).

    θ* are the weights of the last update and F is the sum of the Fisher information of all past updates, one anchor
    for all of them (Huszár, 2018). F is summed over targets and N is how many the update has in an epoch, so that
    strength 1 is the Laplace approximation of learning old and new together. Dense weights are held, and those item
    rows that a step looks at; new rows are free.
    """

    def __init__(self, strength: float = 1.0, fade: float = 1.0, rows: int = 64) -> None:
        """`fade`: what is left of older information at each update; `rows`: packed rows that F is estimated from."""
        super().__init__()
        self.strength, self.fade, self.rows = strength, fade, rows
        self.fisher: State = {}

    def begin(self, learner: Learner, data: Sessions) -> None:
        """The weights now are the anchor."""
        self._anchor = weights(learner, self.known)
        self._targets = max(1, int(data.lengths.sum()) - len(data))

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """The penalty."""
        if not self.fisher:
            return None
        slots = seen.slots[seen.slots < self.known]
        total = self._held(ROWS, seen.rows[: len(slots)], slots)
        for name, weight in learner.model.named_parameters():
            total = total + self._held(f"model.{name}", weight)
        return self.strength / (2 * self._targets) * total

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Add the information of what was new to what is left of the older."""
        found = fisher(learner, learner.slots(newest), self.rows, random)
        for name, older in self.fisher.items():
            found[name][: len(older)] += self.fade * older
        self.fisher = found
        super().remember(learner, newest, random)

    def state(self) -> State:
        """The information."""
        return super().state() | {f"fisher.{name}": value.clone() for name, value in self.fisher.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take it in."""
        super().load(state)
        kept = {name: value for name, value in state.items() if name.startswith("fisher.")}
        self.fisher = {name.removeprefix("fisher."): value.clone() for name, value in kept.items()}

    def _held(self, name: str, weight: Tensor, at: Tensor | None = None) -> Tensor:
        information, anchor = self.fisher[name], self._anchor[name]
        if at is not None:
            information, anchor = information[at], anchor[at]
        return (information * (weight - anchor).square()).sum()


class OnlineElasticWeights(ElasticWeights):
    """Online elastic weight consolidation: older information fades (Schwarz et al., 2018)."""

    def __init__(self, strength: float = 1.0, fade: float = 0.9) -> None:
        super().__init__(strength, fade)


class Fusion(Following):
    """Parameter fusion: what is served is M_pre + share · (θ_new - θ_pre), and the next update starts there.

    Dense weights and the rows of items that were known; new items have their rows as learned. With one period as a
    task it is also the outer step of Reptile (Nichol et al., 2018; interpolation after tuning: Wortsman et al., 2022).
    """

    def __init__(self, share: float = 0.7) -> None:
        super().__init__()
        self.share = share

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Keep the weights that the update starts from."""
        self._before = weights(learner, self.known)

    def finish(self, learner: Learner, held_out: Sessions) -> None:
        """Fuse; the first update has nothing to fuse with."""
        if self.known:
            self._fuse(learner, weights(learner, len(learner.rows)), held_out)

    def _fuse(self, learner: Learner, after: State, held_out: Sessions) -> None:
        put(learner, self._at(after, self.share))

    def _at(self, after: State, share: float) -> State:
        return mixed(self._before, after, dict.fromkeys(after, torch.tensor(share)))


class ChosenFusion(Fusion):
    """Fusion with the share that scores the held-out sessions best; the largest at a tie."""

    SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
    closes = False  # What chooses the share must not have been learned.

    def __init__(self) -> None:
        super().__init__(1.0)

    def _fuse(self, learner: Learner, after: State, held_out: Sessions) -> None:
        found = {}
        for share in self.SHARES:
            put(learner, self._at(after, share))
            scores = learner.scores(held_out)
            found[share] = scores.recall + scores.mrr
        self.share = max(found, key=lambda share: found[share])
        put(learner, self._at(after, self.share))


def fisher(learner: Learner, data: Sessions, rows: int, random: np.random.Generator) -> State:
    """Diagonal of the Fisher information about `data` (slots), summed over its targets, by the names of `weights`.

    Estimated from up to `rows` packed rows. Answers are drawn from the model itself, among all items: the gradient of
    each then has mean zero, and the square of a row's summed gradient has the sum of their squares as its mean.
    """
    model, chance = learner.model.eval(), torch.Generator().manual_seed(int(random.integers(2**62)))
    table = learner.rows.values.clone().requires_grad_()
    names, leaves = zip(*model.named_parameters(), strict=True)
    out = [torch.zeros_like(leaf) for leaf in (*leaves, table)]
    packed = pack(data.take(random.permutation(len(data))), learner.settings.sizes.length)
    asked, part = 0, next(packed.batches(max(1, rows)), packed)
    for batch in part.batches(1):
        counted = batch.targets != NONE
        vectors = model.items(table)
        hidden = model(torch.nn.functional.embedding(batch.inputs, vectors), batch.sessions)[counted]
        chances = torch.log_softmax(hidden @ vectors.T, dim=-1)
        answers = torch.multinomial(chances.detach().exp(), 1, generator=chance)
        slopes = torch.autograd.grad(chances.gather(1, answers).sum(), [*leaves, table])
        for total, slope in zip(out, slopes, strict=True):
            total.addcmul_(slope, slope)
        asked += len(answers)
    model.train()
    scale = (int(data.lengths.sum()) - len(data)) / max(1, asked)
    return {name: total * scale for name, total in zip([*(f"model.{n}" for n in names), ROWS], out, strict=True)}
