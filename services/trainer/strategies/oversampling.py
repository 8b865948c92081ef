"""Learning what is rare more often: impressions that hold a rare item, and labels that are rare.

Repeat factor sampling (Gupta et al., 2019, LVIS): a category c with a share f(c) of the impressions is repeated
r(c) = max(1, √(t / f(c))) times, t being the share below which it is rare. A whole number of times is drawn
for it, by a hash, so that r is the mean and a restart draws the same.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.ids import key_of, share_of
from services.common.records import CLOSED, FLIP, INITIAL
from services.trainer.admission import FrequencySketch
from services.trainer.groups import Floats, Group
from services.trainer.strategies.base import Encode, Update
from services.trainer.strategies.parts import Part, Seen

Weights = Literal["kept", "divided"]
"""`kept`: each repeat weighs what the original weighs. `divided`: all of them, the original too, weigh 1 / r."""

SATURATED = 255
"""Counts end here: who has so many is not rare."""

_KEPT = 200_000
"""Impressions whose factor is remembered for their flips; the newest."""

_WINDOW = 200_000
"""Impressions after which counts of labels halve."""


def factor(share: float, threshold: float, most: float) -> float:
    """r of what has this share, `most` at most.

    >>> factor(0.0001, 0.01, 8), factor(0.0025, 0.01, 8), factor(0.5, 0.01, 8)
    (8, 2.0, 1.0)
    """
    return min(most, max(1.0, math.sqrt(threshold / share)))


def drawn(repeats: float, name: str) -> int:
    """A whole number with the mean `repeats`: the share above the whole part is that of names that are rounded up.

    >>> drawn(3.0, "any"), sum(drawn(2.25, str(k)) for k in range(4000)) / 4000 - 2.25 < 0.03
    (3, True)
    """
    whole = int(repeats)
    return whole + (share_of(name, "repeated") < repeats - whole)


class Shown:
    """In how many impressions an item was shown lately, and how many there were: both halve at the same moment."""

    def __init__(self) -> None:
        self._sketch = FrequencySketch()
        self.impressions = 0

    def add(self, group: Group) -> None:
        """Count the candidates that a group learns from."""
        learned = group.negatives[group.layout.items_at] > 0
        before = self._sketch.added + int(learned.sum())
        self._sketch.add(group.item_keys[: len(learned)][learned])
        self.impressions += int((group.negatives > 0).any(1).sum())
        if self._sketch.added < before:
            self.impressions //= 2

    def counts(self, group: Group) -> NDArray[np.int64]:
        """[B, N]: of each candidate that a group learns from, up to `SATURATED`; there too for the others."""
        out = np.full(group.negatives.shape, SATURATED, np.int64)
        out[group.layout.items_at] = self._sketch.estimate(group.item_keys[: len(group.layout.items)])
        out[group.negatives <= 0] = SATURATED
        return out

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        numbers = torch.tensor([self._sketch.added, self.impressions])
        return {"shown": torch.from_numpy(self._sketch.counts), "numbers": numbers}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The way back."""
        self._sketch.counts = state["shown"].numpy().copy()
        self._sketch.added, self.impressions = state["numbers"].tolist()


class RareItems(Part):
    """Repeats an impression by the factor of its rarest item, in the update that it comes in.

    Each copy hides rows of its own. The factor is remembered for the flips, which are repeated as often as what they
    take back, whatever became of the item since: else loss(0) of a copy would stay, or be taken back without having
    been there. Clicks and non-clicks of an item are repeated alike, so with `kept` its scores stay probabilities; what
    is learned counts rare items more. With `divided` the expected loss is that of plain learning.
    """

    name = "rare_items"

    def __init__(self, threshold: float = 0.001, most: float = 8, weights: Weights = "kept") -> None:
        super().__init__()
        self._threshold, self._most, self._weights = threshold, most, weights
        self._shown = Shown()
        self._factors: OrderedDict[int, float] = OrderedDict()

    def more(self, update: Update) -> Sequence[Group]:
        """See `Part`."""
        for group in update.groups:
            if group.kind == INITIAL:
                self._shown.add(group)
                self._remember(group)
        return [copy for group in update.groups if (copy := self._copies(group, update.encode)) is not None]

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`: the originals, made lighter."""
        if self._weights == "kept" or seen.group.copy or seen.group.kind == CLOSED:
            return None
        return seen.objective(seen.logits, self._scaled(seen.group, self._lighter(seen.group) - np.float32(1)))

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        keys = np.array(list(self._factors), np.uint64).view(np.int64)
        factors = torch.tensor(list(self._factors.values()), dtype=torch.float64)
        return self._shown.state() | {"keys": torch.from_numpy(keys), "factors": factors}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Part`."""
        self._shown.load(state)
        keys = state["keys"].numpy().view(np.uint64).tolist()
        self._factors = OrderedDict(zip(keys, state["factors"].tolist(), strict=True))

    def _remember(self, group: Group) -> None:
        rarest = self._shown.counts(group).min(1)
        for example, count in zip(group.examples, rarest.tolist(), strict=True):
            if count < SATURATED:
                repeats = factor(max(1, count) / self._shown.impressions, self._threshold, self._most)
                if repeats > 1:
                    self._factors[key_of(example.impression_id)] = repeats
        while len(self._factors) > _KEPT:
            self._factors.popitem(last=False)

    def _of(self, group: Group) -> Floats:
        """Factors [B]; 1 where nothing is remembered."""
        found = [self._factors.get(key_of(example.impression_id), 1.0) for example in group.examples]
        return np.array(found, np.float32)

    def _lighter(self, group: Group) -> Floats:
        """1 / r [B]."""
        return np.reciprocal(self._of(group))

    def _copies(self, group: Group, encode: Encode) -> Group | None:
        if group.kind not in (INITIAL, FLIP):
            return None
        weights = group.negatives.sum(axis=1) + group.positives.sum(axis=(1, 2))
        again = [
            # As CLOSED nothing is counted a second time by the tables.
            replace(example, kind=CLOSED if group.kind == INITIAL else example.kind)
            for example, repeats, weight in zip(group.examples, self._of(group).tolist(), weights.tolist(), strict=True)
            if weight > 0
            for _ in range(drawn(repeats, example.impression_id) - 1)
        ]
        if not again:
            return None
        copies = encode(again)
        copies.kind, copies.copy = group.kind, True
        return copies if self._weights == "kept" else self._scaled(copies, self._lighter(copies))

    @staticmethod
    def _scaled(group: Group, share: Floats) -> Group:
        """The group with its weights times `share` [B]."""
        negatives, positives = group.negatives * share[:, None], group.positives * share[:, None, None]
        return replace(group, negatives=negatives, positives=positives)


class RareLabels(Part):
    """Repeats a positive by the factor of its head, f being positives per impression.

    An action is learned when it flips: it takes loss(0) back once, for that was there once, and brings loss(1) as often
    as it is repeated. So nothing has to be remembered, and whole sums stay those of loss(1) and loss(0) of the repeated
    stream. Repeats of one row in a sum are one row of their number, so they are counted, not encoded. With `kept`
    the odds that scores tell are r times the true ones, for each head its own r; with `divided` the expected
    loss is that of plain learning.
    """

    name = "rare_labels"

    def __init__(self, threshold: float = 0.1, most: float = 8, weights: Weights = "kept") -> None:
        super().__init__()
        self._threshold, self._most, self._weights = threshold, most, weights
        self._heads: list[float] = []
        self.counters = {"impressions": 0.0}

    def more(self, update: Update) -> Sequence[Group]:
        """See `Part`: counts, and brings nothing."""
        for group in update.groups:
            found = (group.positives > 0).sum((0, 1)).tolist()
            self._heads = [a + b for a, b in zip(self._heads or [0.0] * len(found), found, strict=True)]
            self.counters["impressions"] += float((group.negatives > 0).any(1).sum())
        if self.counters["impressions"] >= _WINDOW:
            self.counters["impressions"] /= 2
            self._heads = [count / 2 for count in self._heads]
        return ()

    def term(self, seen: Seen) -> Tensor | None:
        """See `Part`."""
        group = seen.group
        if not self._heads or not group.positives.any():
            return None
        times = np.zeros_like(group.positives)
        for at in np.argwhere(group.positives > 0).tolist():
            times[tuple(at)] = self._times(group, *at)
        return seen.objective.again(seen.logits, group, times) if times.any() else None

    def state(self) -> dict[str, Tensor]:
        """See `Part`."""
        return {"heads": torch.tensor(self._heads, dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Part`."""
        self._heads = state["heads"].tolist()

    def _times(self, group: Group, row: int, place: int, head: int) -> float:
        """How often more than once a positive counts."""
        example = group.examples[row]
        share = max(1.0, self._heads[head]) / max(1.0, self.counters["impressions"])
        repeats = factor(share, self._threshold, self._most)
        item = example.impression.items[place].item_id
        count = drawn(repeats, f"{example.impression_id}:{item}:{head}")
        return count / repeats - 1 if self._weights == "divided" else count - 1
