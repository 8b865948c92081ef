"""Canaries: shoppers planted in the log who each click an item of their own, and attacks that tell who was there.

The attackers have all that others than a shopper may see (dense weights, rows of items) and a canary's whole record.

- By the loss, after everything: who was learned from is scored better (Yeom et al., 2018); what makes a record easy
  anyway is taken off by scoring it without the row of its item too (calibration; Watson et al., 2022).
- By the rows, where they are selected: the row of an item of one's own moves more often when one was there.
- By the gradients, round by round: what every canary would add to a round is known, and the released weights say what
  was added in all. Who is in that sum is the linear estimate of least squared error, with noise and chances known.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from freshrank.v1.events_pb2 import Impression, ImpressionItem
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from services.common.encode import NoRows, RowLookup, encode
from services.common.ids import keys_of
from services.common.records import FLIP, INITIAL
from services.trainer.examples import Batch
from services.trainer.learner import Learner
from services.trainer.privacy.rounds import Round
from tests.trainer.privately import strategy
from tests.trainer.strategies.shop import step_of
from tests.trainer.world import SECOND, SPEC, Shop, _row, message


@dataclass
class Canaries:
    """`count` of them, each in the log by the toss of a coin; the others have the same kind of record."""

    count: int
    seed: int

    def __post_init__(self) -> None:
        self.shop = Shop(seed=self.seed, users=10**9)
        self.member = np.random.default_rng(self.seed).permutation(self.count) < self.count // 2
        self.records = [self._record(number) for number in range(self.count)]

    def items(self) -> list[str]:
        """Of the shop, and the canaries' own; all are public."""
        return [f"item-{k}" for k in range(40)] + [f"canary-{k}" for k in range(self.count)]

    def turns(self, times: int, others: int) -> list[list[bytes]]:
        """Every member's record so many times, each time beside the impressions of so many other shoppers."""
        out, offset = [], 0
        for turn in range(times):
            messages: list[bytes] = []
            out.append(messages)
            for record in (r for r, there in zip(self.records, self.member, strict=True) if there):
                messages.append(message(self._rows(record, offset, turn)))
                offset += 1
            for _ in range(others):
                messages.append(message(self.shop.rows(offset)))
                offset += 1
        return out

    def everybody(self, turn: int) -> list[list[dict[str, object]]]:
        """The examples of every canary in a turn, member or not."""
        return [self._rows(record, number, turn) for number, record in enumerate(self.records)]

    def auc(self, made: Learner) -> float:
        """Of the better of the two attacks: by the loss, and by the loss less that without the item's row."""
        plain = -self._losses(made, made.tables)
        calibrated = plain + self._losses(made, NoRows(SPEC.row_dim))
        return max(float(roc_auc_score(self.member, scores)) for scores in (plain, calibrated))

    def _losses(self, made: Learner, rows: RowLookup) -> NDArray[np.float64]:
        """Of each canary's click, under what is released."""
        arrays = encode(self.records, SPEC, ItemsOnly(rows))
        with torch.no_grad():
            logits = made.strategy.served.logits({n: torch.from_numpy(a) for n, a in arrays.items()})
        return np.logaddexp(0, -logits[:, 0, 0].double().numpy())

    def _record(self, number: int) -> Impression:
        record, _ = self.shop.impression()
        record.user_id = f"canary-{number}"
        own: ImpressionItem = record.items[0]
        own.item_id, own.content[:] = f"canary-{number}", [10**6 + 3 * number + t for t in range(3)]
        return record

    def _rows(self, record: Impression, offset: int, turn: int) -> list[dict[str, object]]:
        shown = Impression()
        shown.CopyFrom(record)
        shown.impression_id, shown.time_us = f"{record.user_id}-{turn}", self.shop.made * SECOND
        clicked = Impression()
        clicked.CopyFrom(shown)
        del clicked.items[1:]
        every = list(range(len(shown.items)))
        appears = _row(offset, 0, INITIAL, shown, every, [0] * len(every), [1.0] * len(every))
        return [appears, _row(offset, 1, FLIP, clicked, [0], [1], [1.0])]


@dataclass
class ItemsOnly:
    """Rows without those of shoppers: nobody else sees them."""

    rows: RowLookup

    def items(self, ids: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `RowLookup`."""
        return self.rows.items(ids)

    def users(self, ids: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `RowLookup`: none."""
        return NoRows(SPEC.row_dim).users(ids)


def attacked(made: Learner, canaries: Canaries, times: int, others: int) -> float:
    """AUC of the attack by the loss on a learner that has learned the log."""
    for k, turn in enumerate(canaries.turns(times, others)):
        made.apply(Batch({0: (k, k + 1)}, {0: turn}, offsets={0: [k] * len(turn)}))
    return canaries.auc(made)


def noticed(made: Learner, canaries: Canaries, times: int, others: int) -> float:
    """AUC of the attack by the rows: whose own item moved in more rounds."""
    table = made.tables.item
    slots, moves = table.find(keys_of(f"canary-{k}" for k in range(canaries.count))), np.zeros(canaries.count)
    for k, turn in enumerate(canaries.turns(times, others)):
        before = table.rows[slots].copy()
        made.apply(Batch({0: (k, k + 1)}, {0: turn}, offsets={0: [k] * len(turn)}))
        moves += (table.rows[slots] != before).any(1)
    return float(roc_auc_score(canaries.member, moves))


def audited(made: Learner, canaries: Canaries, times: int, others: int) -> float:
    """AUC of the attack by the gradients; plain gradient descent, and rounds that are as large as a turn."""
    found, count = strategy(made), canaries.count
    size, rate = found.privacy.shoppers, found.config.dense.rate
    likeness, seen = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for k, turn in enumerate(canaries.turns(times, others)):
        adds = np.stack([canary_gradient(made, rows) for rows in canaries.everybody(k)])
        adds = np.vstack([adds, others * adds.mean(0)])  # of the others: about as much as canaries
        before, rounds = found._dense.flat.clone(), found.rounds
        made.apply(Batch({0: (k, k + 1)}, {0: turn}, offsets={0: [k] * len(turn)}))
        assert found.rounds == rounds + 1
        total = (before - found._dense.flat).double().numpy() * size / rate
        likeness += adds @ adds.T
        seen += adds @ (total - adds[:count].sum(0) / 2 - adds[count])
    doubt = 4 * (found.privacy.noise * found.privacy.clip) ** 2 * np.eye(count + 1)
    return float(roc_auc_score(canaries.member, np.linalg.solve(likeness + doubt, seen)[:count]))


def canary_gradient(made: Learner, rows: list[dict[str, object]]) -> NDArray[np.float64]:
    """What a canary adds to the dense weights' sum, for somebody who does not know its own row."""
    step, found = step_of([message(rows)]), Round(1)
    found.add(replace(e, user="nobody") for e in [*step.initial, *step.flips])
    ((user, groups),) = found.shoppers()
    private = strategy(made)
    return private.contribution(user, groups, made.encode).clipped(private.privacy.clip).dense
