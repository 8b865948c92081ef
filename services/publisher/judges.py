"""A release as it would order lists of the past: scores of chosen items, over the inputs as they were served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.encode import RowLookup, encode_values, fill_rows, layout_of
from services.common.spec import ModelSpec
from services.publisher.replay import BATCH, Closed, Model

Floats = NDArray[np.float64]


class Chosen(Protocol):
    """Some items of an impression."""

    @property
    def closed(self) -> Closed:
        """The impression."""
        ...

    @property
    def items(self) -> tuple[int, ...]:
        """Indexes into its items."""
        ...


@dataclass(frozen=True)
class Judge:
    """A release as it would order: its model, inputs and objective."""

    model: Model
    spec: ModelSpec
    objective: Mapping[str, float]


def scored(choices: Sequence[Chosen], judge: Judge, rows: RowLookup) -> tuple[list[Floats], list[Floats]]:
    """Of each choice's items: what the release orders by, and its click probabilities."""
    if not choices:
        return [], []
    weights = np.array([judge.objective.get(head, 0.0) for head in judge.spec.heads])
    found = []
    for start in range(0, len(choices), BATCH):
        part = choices[start : start + BATCH]
        impressions, items = [c.closed.impression for c in part], [c.items for c in part]
        layout = layout_of(impressions, judge.spec, items)
        arrays = encode_values(impressions, judge.spec, layout)
        fill_rows(arrays, layout, rows)
        found.append(judge.model.run(arrays)[layout.items_at].astype(np.float64))
    flat, cuts = np.concatenate(found), np.cumsum([len(c.items) for c in choices])[:-1]
    return np.split(flat @ weights, cuts), np.split(flat[:, 0], cuts)
