"""Examples as arrays: what a step scores and learns from, encoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.encode import Layout, encode_values, layout_of
from services.common.ids import keys_of
from services.common.records import CLOSED, FLIP, INITIAL
from services.common.spec import Arrays, ModelSpec
from services.trainer.distributions import Sample, drawn
from services.trainer.examples import Example, Step
from services.trainer.keyindex import ABSENT, Keys, Slots
from services.trainer.strategies.weights import WeightConfig, item_weights
from services.trainer.tables import RowTable

Floats = NDArray[np.float32]

RowStep = tuple[Slots, Floats]
"""Different slots [n] and gradients [n, dim] of their rows."""


class Rows(Protocol):
    """What a group reads its rows from: a table, or what was fetched of one that other processes hold."""

    def gather(self, slots: Slots) -> tuple[Floats, Floats]:
        """Rows [n, dim] and masks [n] of slots; -1 gives zeros."""
        ...


@dataclass
class Tables:
    """The two tables of an arm; in the shape that `services.common.encode` reads."""

    item: RowTable
    user: RowTable

    def items(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of items."""
        return self.item.lookup(ids)

    def users(self, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Rows and masks of shoppers."""
        return self.user.lookup(ids)

    def learn(self, item: RowStep, user: RowStep, rate: float) -> None:
        """One step on rows of both; those that have left since they were read are passed over."""
        for table, (slots, gradients) in ((self.item, item), (self.user, user)):
            live = table.live[slots]
            table.learn(slots[live], gradients[live], rate)

    def reached(self, items: Slots, users: Slots) -> tuple[Slots, Slots]:
        """Slots of both tables that a step on these moves."""
        return items, users


@dataclass
class Group:
    """Impressions encoded together, B of them, N candidates at most."""

    kind: int
    """INITIAL or FLIP; CLOSED when it is learned again, or late, with its final labels."""
    examples: list[Example]
    layout: Layout
    arrays: Arrays
    """Inputs with the rows as they were before learning."""
    item_keys: Keys
    item_slots: Slots
    """Of the candidates, then of the history, as the layout counts them."""
    user_slots: Slots
    negatives: Floats
    """[B, N]: weight of loss(0) for every head."""
    positives: Floats
    """[B, N, heads]: weight of loss(1) - loss(0)."""
    copy: bool = False
    """Learned beside the one that it was made from: its impressions are not counted again."""

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """The inputs on a device, sharing memory with `arrays` on the CPU."""
        return {name: torch.from_numpy(array).to(device) for name, array in self.arrays.items()}


def group_of(examples: Sequence[Example], spec: ModelSpec, tables: Tables, weights: WeightConfig) -> Group:
    """Encode examples of one kind: whole impressions, weights where the example says so."""
    layout = layout_of([example.impression for example in examples], spec)
    item_ids = layout.item_ids + layout.history_ids
    group, user_keys = without_rows(examples, spec, layout, keys_of(item_ids), weights), keys_of(layout.users)
    if group.kind == INITIAL:
        now_us = max(example.time_us for example in examples)
        group.item_slots = tables.item.observe(item_ids, group.item_keys, now_us)
        group.user_slots = tables.user.observe(layout.users, user_keys, now_us)
    else:
        group.item_slots, group.user_slots = tables.item.find(group.item_keys), tables.user.find(user_keys)
    fill_rows(group, tables.item, tables.user)
    return group


def without_rows(
    examples: Sequence[Example], spec: ModelSpec, layout: Layout, item_keys: Keys, weights: WeightConfig
) -> Group:
    """Encode all but the rows: nobody has one."""
    group = Group(
        kind=examples[0].kind,
        examples=list(examples),
        layout=layout,
        arrays=encode_values([example.impression for example in examples], spec, layout),
        item_keys=item_keys,
        item_slots=np.full(len(item_keys), ABSENT, np.int64),
        user_slots=np.full(layout.batch, ABSENT, np.int64),
        negatives=np.zeros((layout.batch, layout.candidates), np.float32),
        positives=np.zeros((layout.batch, layout.candidates, len(spec.heads)), np.float32),
    )
    _fill_weights(group, weights)
    return group


def groups_of(step: Step, spec: ModelSpec, tables: Tables, weights: WeightConfig) -> list[Group]:
    """The groups of a step that are learned from: what appeared, then what flipped."""
    kinds = (step.initial, step.flips)
    return [group_of(examples, spec, tables, weights) for examples in kinds if examples]


def sample_of(groups: Sequence[Group], spec: ModelSpec, seed: int) -> Sample:
    """What a step says about shoppers: features of what appeared and is learned from, ids of what was clicked."""
    user, item = (
        [np.zeros((0, len(spec.user_features)), np.float32)],
        [np.zeros((0, len(spec.item_features)), np.float32)],
    )
    clicked: list[str] = []
    for group in groups:
        if group.kind == INITIAL:
            learned = group.negatives > 0
            user.append(group.arrays["user"][learned.any(axis=1)])
            item.append(group.arrays["item"][drawn(learned, seed)])
        else:
            clicked += [example.impression_id for example in group.examples if (example.labels & 1).any()]
    names = tuple(ref.name for ref in (*spec.user_features, *spec.item_features))
    return Sample(names, np.concatenate(user), np.concatenate(item), frozenset(clicked))


def fill_rows(group: Group, items: Rows, users: Rows) -> None:
    """Put the rows as they are now into the arrays."""
    layout, arrays, count = group.layout, group.arrays, len(group.layout.items)
    rows, masks = items.gather(group.item_slots)
    arrays["row"][layout.items_at], arrays["row_mask"][layout.items_at] = rows[:count], masks[:count, None]
    arrays["history_row"][layout.history_at] = rows[count:]
    arrays["history_row_mask"][layout.history_at] = masks[count:, None]
    rows, masks = users.gather(group.user_slots)
    arrays["user_row"][:], arrays["user_row_mask"][:] = rows, masks[:, None]


def _fill_weights(group: Group, config: WeightConfig) -> None:
    for number, example in enumerate(group.examples):
        if not example.items:
            continue
        shown = [example.impression.items[k] for k in example.items]
        if example.kind in (INITIAL, CLOSED):
            group.negatives[number, example.items] = item_weights(shown, example.weights, config, flips=False)
        if example.kind in (FLIP, CLOSED):
            heads = np.arange(group.positives.shape[2])
            flipped = (example.labels[:, None] >> heads) & 1
            flip_weights = item_weights(shown, example.weights, config, flips=True)
            group.positives[number, example.items] = flipped * flip_weights[:, None]
