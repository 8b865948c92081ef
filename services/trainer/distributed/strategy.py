"""The online strategy on one process's part of every step.

Dense weights, the optimiser's memory and the pool of retrieval are the same on all processes, for they move by the same
summed gradients; rows are where their owners are. Chance is drawn for the whole step and each process takes its part of
it, so that it does not depend on how many there are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from services.common.content import content_matrix
from services.common.errors import InvalidInput
from services.common.records import INITIAL
from services.common.spec import ModelSpec
from services.trainer import retrieval
from services.trainer.distributed.peers import Peers, parallel
from services.trainer.distributed.shards import Asked, Shards
from services.trainer.distributed.split import Plan
from services.trainer.groups import Group
from services.trainer.strategies.base import Learned
from services.trainer.strategies.online import OnlineConfig, OnlineStrategy
from services.trainer.strategies.rows import TouchedRows

Mine = Sequence[tuple[int, Group]]
"""What this process learns of a step: the number of the part, and its group."""

_NOTHING = np.zeros(0, np.int64)


class DistributedStrategy(OnlineStrategy):
    """Steps made together."""

    def __init__(self, peers: Peers, *arguments: Any) -> None:
        """`arguments` as `OnlineStrategy` takes them. Raises InvalidInput for what several processes cannot do."""
        super().__init__(*arguments)
        _refuse(self.config, len(self.parts))
        self._peers = peers
        self.shards = Shards(self.tables, peers)
        self._parallel, self._parallel_towers = parallel(self.ranker), parallel(self.towers)

    def learn_together(self, asked: Asked, mine: Mine, spec: ModelSpec, number: int) -> Learned:
        """One update: every process with the groups that are its own."""
        if not asked.plan.weighs:
            return Learned(0.0, 0.0)
        self._observe_together(asked.plan, mine, spec, number)
        learned = self._step_together(asked, mine, spec, number)
        self._learn_towers_together(asked.plan, mine)
        return learned

    def adapt(self, spec: ModelSpec) -> None:
        """See `Strategy`."""
        super().adapt(spec)
        self._parallel = parallel(self.ranker)

    def _step_together(self, asked: Asked, mine: Mine, spec: ModelSpec, number: int) -> Learned:
        plan = asked.plan
        items = TouchedRows.of(asked.items, [_NOTHING, *(group.item_slots for _, group in mine)], self._device)
        users = TouchedRows.of(asked.users, [_NOTHING, *(group.user_slots for _, group in mine)], self._device)
        self._dense.zero()
        total = self._parallel(lambda: self._loss_together(plan, mine, items, users, spec, number))
        total.backward()
        weight = float(sum(group.negatives.sum() for _, group in mine))
        loss, weight = self._peers.summed(np.array([float(total.detach()), weight])).tolist()
        if not self._dense.finite() or not np.isfinite(loss):
            return Learned(loss, weight, skipped=True)
        impressions = sum(part.layout.batch for part in plan.parts if part.kind == self._new)
        size = min(1.0, max(1, impressions) / self.config.full_step) ** 0.5
        share = self._dense.step(size, impressions)
        self.shards.push(asked, (asked.items.gradients(items), asked.users.gradients(users)), share)
        return Learned(loss, weight)

    def _loss_together(
        self, plan: Plan, mine: Mine, items: TouchedRows, users: TouchedRows, spec: ModelSpec, number: int
    ) -> Tensor:
        chance = np.random.Generator(np.random.Philox(key=[self.config.seed, number]))
        kept = [self._kept(part.masks(spec.history_length), chance) for part in plan.parts]
        total = torch.zeros((), device=self._device)
        for k, (number_of_part, group) in enumerate(mine, start=1):
            run, longest = plan.parts[number_of_part].run(self._peers.rank), group.layout.candidates
            own = {name: mask[run] for name, mask in kept[number_of_part].items()}
            own["row_mask"] = own["row_mask"][:, :longest]
            inputs = self._inputs(group, items.values, items.places[k], users.values, users.places[k], own)
            total = total + self._loss_of(group, inputs, None, chance)
        return total

    def _observe_together(self, plan: Plan, mine: Mine, spec: ModelSpec, number: int) -> None:
        """Take the numeric features of what appeared, of all processes, into the statistics."""
        for k, part in enumerate(plan.parts):
            if part.kind != self._new or not self.ranker.due(number):
                continue
            own = next((group for n, group in mine if n == k), None)
            empty = [np.zeros((0, len(side)), np.float32) for side in (spec.user_features, spec.item_features)]
            users, items = empty if own is None else (own.arrays["user"], own.arrays["item"][own.layout.items_at])
            self.ranker.user_numeric.observe(self._peers.rows_of_all(users, part.impressions))
            self.ranker.item_numeric.observe(self._peers.rows_of_all(items, part.candidates))

    def _learn_towers_together(self, plan: Plan, mine: Mine) -> None:
        if plan.clicks and self._pool.size:
            rows = torch.from_numpy(self.shards.items(self._pool.key_array()))
            clicks = next((group for _, group in mine if group.positives[:, :, 0].any()), None)
            self._dense_towers.zero()
            self._parallel_towers(
                lambda: torch.zeros(()) if clicks is None else retrieval.loss(self.towers, clicks, self._pool, rows)
            ).backward()
            if self._dense_towers.finite():
                self._dense_towers.step(impressions=sum(part.layout.batch for part in plan.parts))
        for part in plan.parts:
            if part.kind == INITIAL:
                picked = retrieval.picked_of(len(part.layout.items))
                content = [part.layout.items[k].content for k in picked]
                self._pool.put(content_matrix(content, self._pool.content.shape[1]), part.item_keys[picked])


def _refuse(config: OnlineConfig, parts: int) -> None:
    one = "several processes learn by plain steps; learn this with one"
    if parts:
        raise InvalidInput("strategy", "one_process", one)
    if config.labels == "waiting":
        raise InvalidInput("labels", "one_process", one)
    if config.hold_out:
        raise InvalidInput("hold_out", "one_process", one)
    if config.accumulate > 1:
        detail = "several processes take every step; a larger batch_impressions sums as much"
        raise InvalidInput("accumulate", "one_process", detail)
