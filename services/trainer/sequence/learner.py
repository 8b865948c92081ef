"""Model, item rows and optimiser together: one step, and the ranks of what was really next."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from services.trainer.sequence.losses import Sample, Sampler, sampled_softmax
from services.trainer.sequence.metrics import Scores, counts, scored
from services.trainer.sequence.model import SequenceModel, Sizes
from services.trainer.sequence.packed import NONE, Packed, pack
from services.trainer.sequence.rows import BETAS, ItemRows
from services.trainer.sequence.sessions import Ints, Sessions

_SCORED = 256
"""Prefixes scored over the whole catalogue at a time."""


Beside = Callable[[Packed], sparse.csr_array]
"""[n, V] chances of the next item at the n counted places of a batch; what a row lacks of 1 is left to the model."""


def halves_pay() -> bool:
    """Whether this processor multiplies matrices of bfloat16 itself; where it does not they are the slower ones."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@dataclass(frozen=True)
class Settings:
    """How the model is trained; the same for every way of updating."""

    sizes: Sizes = field(default_factory=Sizes)
    rate: float = 1e-3
    """Learning rate of the dense weights."""
    row_rate: float = 4e-3
    """Learning rate of the item rows."""
    spread: float = 0.05
    """Standard deviation of each value of a new row."""
    rows: int = 16
    """Packed rows per step."""
    candidates: int = 2048
    """Items expected in a step's sample; 0: all items."""
    power: float = 0.5
    """Of an item's count in its chance to be in the sample: 0 uniform, 1 by popularity."""
    half: bool = field(default_factory=halves_pay)
    """Products of matrices in bfloat16 in training; scoring is always in float32. Where the processor has them."""
    patience: int = 3
    """Epochs without a better held-out score before training ends."""
    epochs: int = 40
    """Most epochs of one update."""


@dataclass(frozen=True)
class Seen:
    """What one forward pass looked at, for losses and for the terms that a way adds."""

    batch: Packed
    """What was asked."""
    slots: Tensor
    """[U] slots of the rows lent, ascending."""
    rows: Tensor
    """[U, D] the rows, a leaf."""
    vectors: Tensor
    """[U, D] item vectors of them."""
    inputs: Tensor
    """[R, L] the batch's inputs as places within U."""
    hidden: Tensor
    """[n, D] sessions at each counted place."""
    targets: Tensor
    """[n] places within U."""
    sample: Sample
    """Candidates, as places within U."""


class Learner:
    """Learns from packed sessions of slots."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        torch.manual_seed(seed)
        self.model = SequenceModel(settings.sizes)
        self.rows = ItemRows(settings.sizes.dim, settings.spread)
        self.begin(np.zeros(1, np.int64), seed, 0.0)

    def begin(self, popularity: Ints, seed: int, dropout: float) -> None:
        """Start an update: an empty optimiser, `popularity` [V] for sampling, and chance from `seed` alone."""
        torch.manual_seed(seed)
        self.random = np.random.default_rng(seed)
        self.model.set_dropout(dropout)
        self.rows.begin()
        size = self.settings.candidates or max(1, len(popularity))
        self._sampler = Sampler(popularity, size, self.settings.power if self.settings.candidates else 0.0)
        self._dense = torch.optim.Adam(self.model.parameters(), lr=self.settings.rate, betas=BETAS, fused=True)

    def reset(self, seed: int) -> None:
        """New weights and new rows for the same items."""
        torch.manual_seed(seed)
        items = self.rows.items
        self.model = SequenceModel(self.settings.sizes)
        self.rows = ItemRows(self.settings.sizes.dim, self.settings.spread)
        self.rows.add(items, seed)

    def slots(self, sessions: Sessions) -> Sessions:
        """The same sessions with slots for items; those without a row are left out."""
        slots = self.rows.find(sessions.items)
        return Sessions(sessions.ids, slots, sessions.starts).known(slots >= 0)

    def see(self, batch: Packed) -> Seen:
        """Forward pass in training; `move` moves the rows it lends."""
        counted = batch.targets != NONE
        inputs, targets = batch.inputs[batch.sessions > 0], batch.targets[counted]
        sample = self._sampler.draw(self.random)
        slots = torch.unique(torch.cat([inputs, targets, sample.slots]))
        place = torch.zeros(len(self.rows), dtype=torch.int64)
        place[slots] = torch.arange(len(slots))
        rows = self.rows.lend(slots)
        vectors = self.model.items(rows)
        places = place[batch.inputs]
        items = torch.nn.functional.embedding(places, vectors)
        hidden = self.model(items, batch.sessions, self.settings.half)[counted]
        among = Sample(place[sample.slots], sample.log_weights)
        return Seen(batch, slots, rows, vectors, places, hidden, place[targets], among)

    def loss(self, seen: Seen) -> Tensor:
        """Softmax of the next item."""
        return sampled_softmax(seen.hidden, seen.vectors, seen.targets, seen.sample, self.settings.half)

    def step(self, loss: Tensor) -> None:
        """Move dense weights and lent rows down the gradient."""
        self.backward(loss)
        self.move()

    def backward(self, loss: Tensor) -> None:
        """Find the gradients of dense weights and lent rows."""
        self._dense.zero_grad()
        torch.autograd.backward(loss)

    def move(self) -> None:
        """Move what has a gradient."""
        self._dense.step()
        self.rows.step(self.settings.row_rate)

    def move_rows(self, free: Tensor) -> None:
        """Move only those lent rows that `free` [V] names."""
        self.rows.step(self.settings.row_rate, free)

    def scores(self, sessions: Sessions, beside: Beside | None = None) -> Scores:
        """Recall and MRR of every next item of sessions of slots, ranked among all rows.

        `beside`: what is mixed with the model's chances.
        """
        above, tied = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        with torch.no_grad():
            table = self.model.items(self.rows.values)
            for batch, hidden, targets in self.asked(pack(sessions, self.settings.sizes.length)):
                other = beside(batch) if beside else None
                for at in range(0, len(hidden), _SCORED):
                    part = slice(at, at + _SCORED)
                    logits = hidden[part] @ table.T
                    found = counts(logits if other is None else _mixed(logits, other[part]), targets[part])
                    above.append(found[0])
                    tied.append(found[1])
        return scored(np.concatenate(above), np.concatenate(tied))

    def asked(self, packed: Packed) -> Iterator[tuple[Packed, Tensor, Tensor]]:
        """Each batch, with vectors [n, D] and targets [n] in the order of its counted places, without dropout."""
        self.model.eval()
        with torch.no_grad():
            table = self.model.items(self.rows.values)
            for batch in packed.batches(self.settings.rows):
                counted = batch.targets != NONE
                yield batch, self.model(table[batch.inputs], batch.sessions)[counted], batch.targets[counted]
        self.model.train()

    def state(self) -> dict[str, Tensor]:
        """Weights and rows by name: what an update starts from."""
        dense = {f"model.{name}": value.clone() for name, value in self.model.state_dict().items()}
        return dense | {f"rows.{name}": value for name, value in self.rows.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in."""
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        self.rows.load({k.removeprefix("rows."): v for k, v in state.items() if k.startswith("rows.")})


def _mixed(logits: Tensor, beside: sparse.csr_array) -> Tensor:
    other = torch.from_numpy(beside.toarray())
    return torch.softmax(logits, 1).mul_(1 - other.sum(1, keepdim=True)).add_(other)
