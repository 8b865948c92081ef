"""Rows by each way of benchmarks.learning.cold, for items with little evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from freshrank.v1.events_pb2 import Impression
from numpy.typing import NDArray

from services.common import records
from services.common.encode import RowLookup, encode
from services.common.ids import keys_of
from services.common.records import CLOSED, EXAMPLES, FLIP, INITIAL
from services.publisher.cold.ridge import Fit, fit
from services.publisher.cold.rows import Blend
from services.publisher.cold.study import Hidden
from services.publisher.scores import log_loss, loss_difference
from services.publisher.table import Rows
from services.trainer.examples import Batch
from services.trainer.learner import Learner

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLEND = Blend()
WAYS = ("own", "mean", "text", "blended")
"""Rows of items with little evidence: their own or none; the mean row, or that of the text, until there is an own one;
what the publisher serves."""


@dataclass(frozen=True)
class Shown:
    """A list, and the places of what was wanted of it."""

    impression: Impression
    wanted: Sequence[int]

    @property
    def labels(self) -> Floats:
        """[n]."""
        out = np.zeros(len(self.impression.items), np.float32)
        out[list(self.wanted)] = 1
        return out


def batch(first: int, lists: Iterable[Shown]) -> Batch:
    """Lists as one message of the joiner's: they appear, what is wanted flips, they close."""
    rows = []
    for number, each in enumerate(lists):
        shown, wanted = each.impression, list(each.wanted)
        n, whole = len(shown.items), shown.SerializeToString()
        kinds = (
            (INITIAL, list(range(n)), [0] * n, [1.0] * n),
            (FLIP, wanted, [1] * len(wanted), [1.0] * len(wanted)),
            (CLOSED, list(range(n)), each.labels.astype(int).tolist(), [0.0] * n),
        )
        for index, (kind, items, marks, weights) in enumerate(kinds):
            about = (kind, shown.time_us, shown.time_us, shown.time_us, shown.impression_id, shown.user_id)
            if items:
                rows.append((first + number, index, *about, items, marks, weights, whole))
    columns: dict[str, object] = dict(zip(EXAMPLES.names, zip(*rows, strict=True), strict=True))
    message = records.encode(records.batch_of(EXAMPLES, columns))
    return Batch({0: (first, first + 1)}, {0: [message]})


class Rowed:
    """Rows of every item by each way, as they are now."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self._spec = learner, learner.spec
        self._ids: list[str] = []
        self._keys = keys_of([])
        self._texts = np.zeros((0, 0), np.float32)
        self.fit: Fit | None = None
        self._warm = np.zeros(0, np.int64)
        self._mean = np.zeros(learner.spec.row_dim, np.float32)

    def add(self, ids: Sequence[str], texts: Floats) -> None:
        """More items, with vectors of their texts [n, text dim]."""
        self._texts = np.concatenate([self._texts, texts]) if len(self._ids) else texts
        self._ids += ids
        self._keys = keys_of(self._ids)

    def own(self) -> Rows:
        """The learner's rows of all items, as its deltas tell them."""
        table = self._learner.tables.item
        slots = table.find(self._keys)
        seen = np.where(slots >= 0, table.seen(self._ids), 0).astype(np.uint8)
        count = len(slots)
        return Rows(tuple(self._ids), table.gather(slots)[0], np.ones(count, np.uint64), np.ones(count, np.int64), seen)

    def renew(self) -> None:
        """Fit on what is known now."""
        own = self.own()
        self._warm = np.flatnonzero(own.present)
        seen = np.zeros(0) if own.seen is None else own.seen[self._warm].astype(np.float32)
        weights = (seen / (seen + BLEND.weight)).astype(np.float32)
        self.fit = fit(self._texts[self._warm], own.rows[self._warm], weights)
        if len(self._warm):
            self._mean = np.average(own.rows[self._warm], axis=0, weights=weights).astype(np.float32)

    def rows(self, way: str, own: Rows, items: Ints) -> Floats:
        """Rows [n, dim] of items with little evidence; a zero one is the same as none."""
        few = own.pick(items)
        if way == "own" or self.fit is None:
            return few.rows
        texts = self.fit.map.rows(self._texts[items])
        if way == "blended":
            return BLEND.rows(few, texts)
        return np.where(few.present[:, None], few.rows, self._mean if way == "mean" else texts)

    def judged(self, kept: Sequence[Shown]) -> dict[str, float] | None:
        """What the publisher's judgment comes to: see `services.publisher.cold.study`."""
        if self.fit is None or not kept:
            return None
        held = self._warm[self.fit.held]
        ids, instead = [self._ids[k] for k in held], self.fit.trial.rows(self._texts[held])
        labels = np.concatenate([each.labels for each in kept])
        groups = np.repeat(np.arange(len(kept)), [len(each.impression.items) for each in kept])
        tables = self._learner.tables
        one, other = (self._scores(kept, Hidden(tables, ids, rows)) for rows in (instead, None))
        found = loss_difference(labels, one, other, groups)
        return {"r2": self.fit.r2, "penalty": self.fit.penalty, "items": self.fit.items, "gain": -found.mean,
                "error": found.error, "loss": log_loss(labels, other)}  # fmt: skip

    @torch.no_grad()
    def _scores(self, kept: Sequence[Shown], rows: RowLookup) -> Floats:
        out = []
        for start in range(0, len(kept), 64):
            some = [each.impression for each in kept[start : start + 64]]
            arrays = encode(some, self._spec, rows)
            given = {name: torch.from_numpy(array) for name, array in arrays.items()}
            logits = self._learner.strategy.served.logits(given)[:, :, 0]
            out.append(torch.sigmoid(logits).numpy()[arrays["mask"] > 0])
        return np.concatenate(out)
