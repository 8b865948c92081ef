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
    owners: Sequence[int] = ()
    """Keys of the shoppers they are of, so that they can be forgotten; empty: nobody's."""

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        if len(self.items) != len(self.queries):
            raise InvalidInput("items", "malformed", f"{len(self.items)} of them for {len(self.queries)} queries")
        if self.grades and len(self.grades) != len(self.queries):
            raise InvalidInput("grades", "malformed", f"{len(self.grades)} of them for {len(self.queries)} queries")
        if self.owners and len(self.owners) != len(self.queries):
            raise InvalidInput("owners", "malformed", f"{len(self.owners)} of them for {len(self.queries)} queries")
        if not all(0 <= grade <= 1 for grade in self.grades):
            raise InvalidInput("grades", "out_of_range", "must lie between 0 and 1")

    def __len__(self) -> int:
        return len(self.queries)

    def taken(self, places: Sequence[int]) -> "Pairs":
        """Some of them, with all negatives."""
        grades = [self.grades[k] for k in places] if self.grades else ()
        owners = [self.owned[k] for k in places]
        return Pairs([self.queries[k] for k in places], [self.items[k] for k in places], grades, self.negatives, owners)

    def followed(self, other: "Pairs") -> "Pairs":
        """These, then others."""
        grades = (*self.graded, *other.graded) if self.grades or other.grades else ()
        negatives = (*self.negatives, *other.negatives)
        owners = (*self.owned, *other.owned)
        return Pairs([*self.queries, *other.queries], [*self.items, *other.items], grades, negatives, owners)

    @property
    def graded(self) -> Sequence[float]:
        """A grade for each."""
        return self.grades or [1.0] * len(self)

    @property
    def owned(self) -> Sequence[int]:
        """An owner for each; 0: nobody."""
        return self.owners or [0] * len(self)


@dataclass
class Replay:
    """A reservoir: each pair of the past has the same chance to be in it (Vitter, 1985)."""

    kept: float = 2000
    share: float = 0.5
    """Of a step that is from the past."""
    seed: int = 0
    seen: int = 0
    draws: int = 0
    _past: list[tuple[str, str, float, int]] = field(default_factory=list)

    def mixed(self, new: Pairs) -> Pairs:
        """The new ones and some of the past, which the new ones then belong to."""
        count = min(len(self._past), round(len(new) * self.share / (1 - self.share)))
        self.draws += 1
        chance = np.random.Generator(np.random.Philox(key=[self.seed, self.draws]))
        old = [self._past[k] for k in chance.choice(len(self._past), count, replace=False)] if count else []
        for row in zip(new.queries, new.items, new.graded, new.owned, strict=True):
            self._keep(row, chance)
        if not old:
            return new
        queries, items, grades, owners = zip(*old, strict=True)
        return new.followed(Pairs(queries, items, grades if new.grades else (), owners=owners))

    def forget(self, owner: int) -> int:
        """Let a shopper's pairs go; returns how many. New ones take their places as they come."""
        before = len(self._past)
        self._past = [row for row in self._past if row[3] != owner]
        return before - len(self._past)

    def state(self) -> dict[str, Tensor]:
        """All of it."""
        told = json.dumps([self.seen, self.draws, self._past]).encode()
        return {"replay": torch.frombuffer(bytearray(told), dtype=torch.uint8)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take `state` in."""
        self.seen, self.draws, past = json.loads(state["replay"].numpy().tobytes())
        self._past = [(query, item, grade, owner) for query, item, grade, owner in past]

    def _keep(self, row: tuple[str, str, float, int], chance: np.random.Generator) -> None:
        self.seen += 1
        if len(self._past) < int(self.kept):
            self._past.append(row)
        elif (place := int(chance.integers(self.seen))) < int(self.kept):
            self._past[place] = row
