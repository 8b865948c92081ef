"""Who learns what of a step: impressions in runs of about as many candidates, rows by their key.

Pure, and the same on every process: all read the same examples, so nobody is asked what he needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.common.encode import Layout, layout_of
from services.common.ids import keys_of
from services.common.records import INITIAL
from services.common.spec import ModelSpec
from services.trainer.examples import Example, Step
from services.trainer.keyindex import Keys

Ints = NDArray[np.int64]


def owners_of(keys: Keys, processes: int) -> Ints:
    """The process [n] that holds the row of each key; keys are hashes.

    >>> owners_of(np.array([7, 8, 2**64 - 1], np.uint64), 2).tolist()
    [1, 0, 1]
    """
    return (keys % np.uint64(processes)).astype(np.int64)


def cuts(sizes: Sequence[int], processes: int) -> Ints:
    """Where each process's run of examples begins, and the end [processes + 1]: runs of about equal size.

    >>> cuts([4, 1, 1, 2], 2).tolist(), cuts([9], 3).tolist()
    ([0, 1, 4], [0, 0, 1, 1])
    """
    ends = np.cumsum(sizes)
    middles = ends - np.array(sizes) / 2
    inner = np.searchsorted(middles, ends[-1] * np.arange(1, processes) / processes)
    return np.array([0, *inner, len(sizes)], np.int64)


@dataclass(frozen=True)
class Part:
    """The examples of one kind in a step, of all processes."""

    examples: list[Example]
    layout: Layout
    item_keys: Keys
    """Of candidates, then of the history, as the layout counts them."""
    user_keys: Keys
    cuts: Ints

    @property
    def kind(self) -> int:
        """INITIAL or FLIP."""
        return self.examples[0].kind

    @property
    def impressions(self) -> list[int]:
        """How many each process learns."""
        return [int(n) for n in np.diff(self.cuts)]

    @cached_property
    def candidate_cuts(self) -> Ints:
        """Where each process's candidates begin, and the end."""
        return np.searchsorted(self.layout.items_at[0], self.cuts)

    @property
    def candidates(self) -> list[int]:
        """How many each process learns."""
        return [int(n) for n in np.diff(self.candidate_cuts)]

    def run(self, process: int) -> slice:
        """Which examples a process learns."""
        return slice(int(self.cuts[process]), int(self.cuts[process + 1]))

    def items_of(self, process: int) -> Keys:
        """Keys of the items that a process reads, as its own layout counts them."""
        first, end = self.candidate_cuts[process : process + 2]
        count, history = len(self.layout.items), np.searchsorted(self.layout.history_at[0], self.cuts)
        past = self.item_keys[count + history[process] : count + history[process + 1]]
        return np.concatenate([self.item_keys[first:end], past])

    def masks(self, history_length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the masks of rows, of all processes' examples together."""
        batch = self.layout.batch
        return {
            "row_mask": (batch, self.layout.candidates, 1),
            "history_row_mask": (batch, history_length, 1),
            "user_row_mask": (batch, 1),
        }


@dataclass(frozen=True)
class Plan:
    """A step, and who does what of it."""

    step: Step
    number: int
    """Place of the step in its batch, from 0."""
    parts: list[Part]
    """What appeared, then what flipped."""
    wanted: tuple[list[Keys], list[Keys]]
    """Keys of the items, and of the shoppers, that each process reads: in order, each once."""
    clicks: bool
    """True when somebody clicked."""
    weighs: bool
    """True when anything in it is learned from."""


def plan_of(step: Step, number: int, spec: ModelSpec, processes: int) -> Plan:
    """Share a step out."""
    parts = [_part(examples, spec, processes) for examples in (step.initial, step.flips) if examples]
    items = [_each_once([part.items_of(p) for part in parts]) for p in range(processes)]
    users = [_each_once([part.user_keys[part.run(p)] for part in parts]) for p in range(processes)]
    heads = (1 << len(spec.heads)) - 1
    acts = [example.labels[example.weights != 0] for example in step.flips]
    return Plan(
        step=step,
        number=number,
        parts=parts,
        wanted=(items, users),
        clicks=any((labels & 1).any() for labels in acts),
        weighs=any(e.weights.any() for e in step.initial) or any((labels & heads).any() for labels in acts),
    )


def _part(examples: list[Example], spec: ModelSpec, processes: int) -> Part:
    layout = layout_of([example.impression for example in examples], spec)
    sizes = np.bincount(layout.items_at[0], minlength=layout.batch)
    keys = keys_of(layout.item_ids + layout.history_ids)
    return Part(examples, layout, keys, keys_of(layout.users), cuts(sizes.tolist(), processes))


def _each_once(keys: Sequence[Keys]) -> Keys:
    return np.unique(np.concatenate([*keys, np.zeros(0, np.uint64)]))


def now_of(part: Part) -> int | None:
    """Log time at which its ids are seen; None when they were seen before."""
    return max(example.time_us for example in part.examples) if part.kind == INITIAL else None
