"""Pairs of the past beside new ones: what is looked at again is not forgotten."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from services.common.errors import InvalidInput


@dataclass(frozen=True)
class Pairs:
    """Queries and the items that answered them, one each; everything else may be left out."""

    queries: Sequence[str]
    items: Sequence[str]
    grades: Sequence[float] = ()
    """How well an item answers its query, 0 to 1; empty: all were chosen, 1."""
    negatives: Sequence[str] = ()
    """Items that were shown beside them and passed over: hard negatives, for all queries of the batch."""

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        if len(self.items) != len(self.queries):
            raise InvalidInput("items", "malformed", f"{len(self.items)} of them for {len(self.queries)} queries")
        if self.grades and len(self.grades) != len(self.queries):
            raise InvalidInput("grades", "malformed", f"{len(self.grades)} of them for {len(self.queries)} queries")
        if not all(0 <= grade <= 1 for grade in self.grades):
            raise InvalidInput("grades", "out_of_range", "must lie between 0 and 1")

    def __len__(self) -> int:
        return len(self.queries)

    def taken(self, places: Sequence[int]) -> "Pairs":
        """Some of them, with all negatives."""
        grades = [self.grades[k] for k in places] if self.grades else ()
        return Pairs([self.queries[k] for k in places], [self.items[k] for k in places], grades, self.negatives)

    def followed(self, other: "Pairs") -> "Pairs":
        """These, then others."""
        grades = (*self.graded, *other.graded) if self.grades or other.grades else ()
        negatives = (*self.negatives, *other.negatives)
        return Pairs([*self.queries, *other.queries], [*self.items, *other.items], grades, negatives)

    @property
    def graded(self) -> Sequence[float]:
        """A grade for each."""
        return self.grades or [1.0] * len(self)


@dataclass
class Replay:
    """A reservoir: each pair of the past has the same chance to be in it (Vitter, 1985)."""

    kept: float = 2000
    share: float = 0.5
    """Of a step that is from the past."""
    seed: int = 0
    seen: int = 0
    draws: int = 0
    _past: list[tuple[str, str, float]] = field(default_factory=list)

    def mixed(self, new: Pairs) -> Pairs:
        """The new ones and some of the past, which the new ones then belong to."""
        count = min(len(self._past), round(len(new) * self.share / (1 - self.share)))
        self.draws += 1
        chance = np.random.Generator(np.random.Philox(key=[self.seed, self.draws]))
        old = [self._past[k] for k in chance.choice(len(self._past), count, replace=False)] if count else []
        for row in zip(new.queries, new.items, new.graded, strict=True):
            self._keep(row, chance)
        if not old:
            return new
        queries, items, grades = zip(*old, strict=True)
        return new.followed(Pairs(queries, items, grades if new.grades else ()))

    def state(self) -> dict[str, Tensor]:
        """All of it."""
        told = json.dumps([self.seen, self.draws, self._past]).encode()
        return {"replay": torch.frombuffer(bytearray(told), dtype=torch.uint8)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in."""
        self.seen, self.draws, past = json.loads(state["replay"].numpy().tobytes())
        self._past = [(query, item, grade) for query, item, grade in past]

    def _keep(self, row: tuple[str, str, float], chance: np.random.Generator) -> None:
        self.seen += 1
        if len(self._past) < int(self.kept):
            self._past.append(row)
        elif (place := int(chance.integers(self.seen))) < int(self.kept):
            self._past[place] = row
