"""Ways of keeping a sequence model fresh: what of the past is kept, what is trained on, what is added to the loss.

A way is one short class; `FineTune` holds the defaults, and the others say in what they differ.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from services.trainer.sequence.learner import Beside, Learner, Seen
from services.trainer.sequence.sessions import Sessions, joined

State = dict[str, Tensor]

DROPOUT = 0.3


class Update(Protocol):
    """How one update is made; what it remembers of the past is in `state`, so that a restart goes on the same."""

    @property
    def dropout(self) -> float:
        """Share of values dropped in training."""
        ...

    fresh: bool
    """Every update starts from new weights."""
    closes: bool
    """Items that the held-out sessions alone show learn them at last."""

    def learns(self, period: int) -> bool:
        """Whether there is an update after this period."""
        ...

    def sessions(self, newest: Sessions, random: np.random.Generator) -> Sessions:
        """What is trained on, given what is new."""
        ...

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Look at the weights that an update starts from, and at what it trains on (slots)."""
        ...

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """What is added to the loss of a step; None: nothing."""
        ...

    def gradient(self, learner: Learner) -> None:
        """Look at the gradients of a step, or change them, before anything moves."""
        ...

    def finish(self, learner: Learner, held_out: Sessions) -> None:
        """Change the weights once more when the best ones are in place; `held_out` (slots) was not trained on."""
        ...

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Keep what later updates need of this one, when it is done."""
        ...

    def beside(self) -> Beside | None:
        """What is told beside the model when it is asked; None: nothing."""
        ...

    def state(self) -> State:
        """What is remembered, by name."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in."""
        ...


class FineTune:
    """Train on what is new, from the last weights; nothing is kept."""

    dropout = 0.0
    fresh = False
    closes = True

    def learns(self, period: int) -> bool:
        """Always."""
        return True

    def sessions(self, newest: Sessions, random: np.random.Generator) -> Sessions:
        """What is new."""
        return newest

    def begin(self, learner: Learner, data: Sessions) -> None:
        """Nothing to look at."""

    def term(self, learner: Learner, seen: Seen) -> Tensor | None:
        """Nothing is added."""
        return None

    def gradient(self, learner: Learner) -> None:
        """Nothing is changed."""

    def finish(self, learner: Learner, held_out: Sessions) -> None:
        """The weights stay as they are."""

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Nothing is kept."""

    def beside(self) -> Beside | None:
        """The model is asked alone."""
        return None

    def state(self) -> State:
        """Nothing."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take in."""


class Dropout(FineTune):
    """Fine-tuning with dropout, which alone forgets less (Mirzadeh et al., 2020)."""

    dropout = DROPOUT


class BaseAlone(FineTune):
    """Dropout in the first and largest training alone; mixed in before a way, whose later updates then have none."""

    dropout = DROPOUT

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """The base is trained."""
        super().remember(learner, newest, random)
        self.dropout = 0.0

    def state(self) -> State:
        """Whether it is, beside what the way remembers."""
        return super().state() | {"dropout": torch.tensor(self.dropout, dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take it in."""
        super().load(state)
        self.dropout = float(state["dropout"])


class BaseDropout(BaseAlone, Dropout):
    """Plain fine-tuning after a base that was trained with dropout."""


class Frozen(Dropout):
    """Trained once, on the first period."""

    def learns(self, period: int) -> bool:
        """After the first period only."""
        return period == 0


class Untrained(FineTune):
    """Never trained: first weights, for what is told beside them."""

    def learns(self, period: int) -> bool:
        """Never."""
        return False


class LastPeriodOnly(Dropout):
    """New weights for each period, from that period alone."""

    fresh = True


class Following(Dropout):
    """What treats that which the last update knew otherwise than what is new; the first update is plain."""

    def __init__(self) -> None:
        self.known = 0
        """Rows there were at the last update; new ones come behind them."""

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """How many rows there are."""
        self.known = len(learner.rows)

    def state(self) -> State:
        """How many rows there were."""
        return {"known": torch.tensor(self.known)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take it in."""
        self.known = int(state["known"])


class Keeping(Dropout):
    """What keeps sessions of the past."""

    def __init__(self) -> None:
        self.kept = joined([])

    def state(self) -> State:
        """The sessions kept."""
        columns = {"ids": self.kept.ids, "items": self.kept.items, "starts": self.kept.starts}
        return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the sessions in."""
        self.kept = Sessions(*(state[name].numpy() for name in ("ids", "items", "starts")))

    def sessions(self, newest: Sessions, random: np.random.Generator) -> Sessions:
        """What is new and all that is kept."""
        return joined([newest, self.kept])


class Replay(Keeping):
    """Fine-tuning on what is new together with a reservoir: a uniform sample of all past sessions (Vitter, 1985)."""

    def __init__(self, size: int = 8000) -> None:
        """`size`: sessions kept."""
        super().__init__()
        self.size, self.seen = size, 0

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Algorithm R, session by session: each of those seen so far is kept with the same chance."""
        both = joined([self.kept, newest])
        chosen = list(range(len(self.kept)))
        for session in range(len(self.kept), len(both)):
            self.seen += 1
            place = len(chosen) if len(chosen) < self.size else int(random.integers(self.seen))
            chosen[place : place + 1] = [session] if place < self.size else []
        self.kept = both.take(np.array(chosen, np.int64))

    def state(self) -> State:
        """The sessions kept and how many have been seen."""
        return super().state() | {"seen": torch.tensor(self.seen)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them in."""
        super().load(state)
        self.seen = int(state["seen"])


class FullRetrain(Keeping):
    """New weights for each period, from everything so far: the reference for quality and time."""

    fresh = True

    def remember(self, learner: Learner, newest: Sessions, random: np.random.Generator) -> None:
        """Keep everything."""
        self.kept = joined([self.kept, newest])
