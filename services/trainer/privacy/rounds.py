"""The examples of a round, shopper by shopper, until there are enough of them."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from services.common.ids import key_of
from services.common.records import CLOSED, FLIP, INITIAL
from services.trainer import remembered
from services.trainer.examples import Example

_REMEMBERED = 20_000
"""Impressions left out by the cap whose late actions are left out too."""


class Round:
    """At most `cap` impressions, and as many actions, of each shopper."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._kept: dict[str, list[Example]] = {}
        self._left: deque[int] = deque(maxlen=_REMEMBERED)
        """Keys of the impressions that were left out."""
        self.left_out = 0
        """Examples left out so far: beyond the cap, or without a shopper."""

    def __len__(self) -> int:
        """Different shoppers."""
        return len(self._kept)

    def add(self, examples: Iterable[Example]) -> None:
        """Take examples in the order of the log.

        Who has no id cannot be told apart from others, so that nothing bounds what one of them adds: left out.
        An action goes the way of its impression: learned alone, it would take back a loss that was never added.
        """
        for example in examples:
            mine = self._kept.get(example.user, [])
            full = sum(other.kind == example.kind for other in mine) >= self._cap
            orphan = example.kind == FLIP and _key(example) in self._left
            if full or orphan or not example.user:
                self._leave_out(example)
            else:
                self._kept.setdefault(example.user, []).append(example)

    def shoppers(self) -> list[tuple[str, list[list[Example]]]]:
        """(shopper, what appeared and what flipped) in the order they came.

        What appeared is of kind CLOSED: it was counted when it came, and weighs the same.
        """
        out = []
        for user, examples in self._kept.items():
            appeared = [replace(e, kind=CLOSED) for e in examples if e.kind == INITIAL]
            flipped = [e for e in examples if e.kind == FLIP]
            out.append((user, [group for group in (appeared, flipped) if group]))
        return out

    def clear(self) -> None:
        """The round is over."""
        self._kept = {}

    def forget(self, user: str, before_us: int) -> None:
        """Drop a shopper's examples from before that time."""
        kept = [e for e in self._kept.pop(user, []) if e.event_time_us >= before_us]
        if kept:
            self._kept[user] = kept

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        packed = remembered.pack([example for examples in self._kept.values() for example in examples])
        return packed | {
            "left": torch.tensor(list(self._left), dtype=torch.int64),
            "left_out": torch.tensor(self.left_out),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The way back."""
        self._kept = {}
        for example in remembered.unpack(state):
            self._kept.setdefault(example.user, []).append(example)
        self._left = deque(state["left"].tolist(), maxlen=_REMEMBERED)
        self.left_out = int(state["left_out"])

    def _leave_out(self, example: Example) -> None:
        self.left_out += 1
        if example.kind == INITIAL:
            self._left.append(_key(example))


def _key(example: Example) -> int:
    """63 bits of the impression's key: torch has no unsigned integers that safetensors keeps."""
    return key_of(example.impression_id) >> 1
