"""Live values -> the model's inputs: the same arrays that `services/common/encode.py` makes of the impression later.

That equality is what "trained as served" means (design D2) and is tested for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common import spec as specs
from services.common.spec import Arrays, ModelSpec, columns_for
from services.gateway import cross
from services.gateway.blocks import CATALOGUE
from services.gateway.candidates import Candidates, ItemRows, RowSlot, item_rows
from services.gateway.schema import Schema, ViewColumns
from services.gateway.shopper import Pairs, Recent, Shopper
from services.gateway.table import ItemTable

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Served:
    """The history as it goes into model and impression: newest first, at most the model's length."""

    recent: Recent
    tokens: NDArray[np.uint32]
    """[length, MAX_TOKENS] content tokens; the first `counts` of each row are used."""
    counts: Ints
    content: Floats
    rows: ItemRows


NO_HISTORY = Recent((), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Touches:
    """Items of the shopper's lists with their catalogue records, looked up once for all lists."""

    parts: Mapping[str, tuple[Ints, NDArray[Any]]]
    """By "view:prefix": places in the table, and records."""


def touches(table: ItemTable, shopper: Shopper) -> Touches:
    """Look up every item of every list."""
    names = [item for recent in shopper.lists.values() for item in recent.items]
    slots = table.slots(names)
    records = table.catalogue(slots)
    parts, start = {}, 0
    for path, recent in shopper.lists.items():
        at = slice(start, start + len(recent))
        parts[path] = (slots[at], records[at])
        start += len(recent)
    return Touches(parts)


def history(
    table: ItemTable, shopper: Shopper, schema: Schema, touched: Touches, length: int, row_slot: RowSlot
) -> Served:
    """The shopper's history with the content and rows of its items."""
    recent = shopper.lists.get(schema.history, NO_HISTORY)
    slots, records = touched.parts.get(schema.history, (np.zeros(0, np.int64), np.zeros(0, CATALOGUE)))
    records = records[:length]
    return Served(
        Recent(recent.items[:length], recent.kinds[:length], recent.times[:length]),
        records["token"],
        records["tokens"].astype(np.int64),
        records["content"],
        item_rows(table, row_slot, slots[:length]),
    )


Likeness = Callable[[Ints, Ints], Floats]
"""How alike items are to some others, newest first, by vectors that the shop gives; all by their place in the table."""


def complete(
    candidates: Candidates,
    shopper: Shopper,
    schema: Schema,
    touched: Touches,
    now_us: int,
    likeness: Likeness | None = None,
) -> Floats:
    """Fill features of pairs and cross features into the candidates' matrix; returns it, [n, item features]."""
    features = candidates.features
    known = np.flatnonzero(candidates.category >= 0)
    if len(shopper.pair):
        of_category = Pairs(shopper.pair[candidates.category[known]], shopper.pair_pos[candidates.category[known]])
        _fill(candidates, known, schema.pair_views, of_category, len(schema.item_views))
    if shopper.asked is not None and schema.asked_views:
        first = len(schema.item_views) + len(schema.pair_views)
        _fill(candidates, np.arange(len(candidates)), schema.asked_views, shopper.asked, first)
    if schema.cross.features:
        scene = scene_of(candidates, shopper, touched, now_us, likeness)
        features[:, schema.cross.places] = cross.compute(schema.cross.features, scene)
    return features


def _fill(candidates: Candidates, places: Ints, views: Sequence[ViewColumns], pairs: Pairs, first: int) -> None:
    """Values of some candidates, view beside view, into their columns; positions from column `first` on."""
    start = 0
    for view in views:
        values = pairs.values[:, start : start + len(view.fields)]
        candidates.features[places[:, None], view.places] = values
        start += len(view.fields)
    candidates.pos[places, first : first + len(views)] = pairs.pos


def scene_of(
    candidates: Candidates, shopper: Shopper, touched: Touches, now_us: int, likeness: Likeness | None = None
) -> cross.Scene:
    """What the cross features look at."""

    def alike(path: str, kind: int) -> Floats:
        slots = touched.parts[path][0] if path in touched.parts else np.zeros(0, np.int64)
        chosen = slots[shopper.lists[path].kinds == kind] if kind and len(slots) else slots
        assert likeness is not None
        return likeness(chosen, candidates.slots)

    lists = {}
    for path, recent in shopper.lists.items():
        records = touched.parts[path][1]
        categories = records["categories"][:, 0].astype(np.int64)
        lists[path] = cross.touch(recent, candidates.index, records["price"], categories)
    return cross.Scene(
        now_us=now_us,
        prior_rank=candidates.wanted.prior_rank,
        price=candidates.price,
        category=candidates.records["categories"][:, 0].astype(np.int64),
        published_us=candidates.records["published_us"],
        touched=lists,
        match=candidates.wanted.match,
        asked=_asked(candidates),
        likeness=alike if likeness is not None else None,
    )


def _asked(candidates: Candidates) -> Floats | None:
    match = candidates.wanted.match
    if match is None or not match.asked:
        return None
    told = [*(match.asked.get(name, np.nan) for name in candidates.categories), np.nan]  # the last: of no category
    return np.array(told, np.float32)[candidates.category]


@dataclass(frozen=True)
class InputPlan:
    """A model's spec against a schema: which column feeds which input."""

    spec: ModelSpec
    user: Ints
    item: Ints

    @staticmethod
    def of(spec: ModelSpec, schema: Schema) -> "InputPlan":
        """Raises nothing: what the schema lacks stays missing."""
        return InputPlan(
            spec, columns_for(spec.user_features, schema.user_ids), columns_for(spec.item_features, schema.item_ids)
        )


def assemble(
    plan: InputPlan,
    candidates: Candidates,
    shopper: Shopper,
    served: Served,
    context: Sequence[int],
    now_us: int,
) -> Arrays:
    """Inputs of one request, B = 1, candidates padded."""
    spec, n = plan.spec, len(candidates)
    arrays = specs.zeros(spec, 1, specs.padded(n))
    _columns(arrays["user"][0], plan.user, shopper.user)
    if shopper.row is not None and len(shopper.row) == spec.row_dim:
        arrays["user_row"][0] = shopper.row
        arrays["user_row_mask"][0] = 1
    arrays["context"][0] = context
    _history(arrays, served, now_us)
    _columns(arrays["item"][0, :n], plan.item, candidates.features)
    arrays["content"][0, :n] = candidates.records["content"]
    arrays["row"][0, :n] = candidates.rows.values
    arrays["row_mask"][0, :n, 0] = candidates.rows.mask
    arrays["mask"][0, :n] = 1
    return arrays


def _columns(target: Floats, columns: Ints, values: Floats) -> None:
    there = columns >= 0
    if there.all():
        target[...] = values[..., columns]
    else:
        target[..., there] = values[..., columns[there]]


def _history(arrays: Mapping[str, NDArray[np.generic]], served: Served, now_us: int) -> None:
    count = len(served.recent)
    if not count:
        return
    arrays["history_content"][0, :count] = served.content
    arrays["history_row"][0, :count] = served.rows.values
    arrays["history_row_mask"][0, :count, 0] = served.rows.mask
    arrays["history_kind"][0, :count] = served.recent.kinds
    arrays["history_age"][0, :count] = np.log1p(np.maximum(0, now_us - served.recent.times) / 1e6)
    arrays["history_mask"][0, :count] = 1
