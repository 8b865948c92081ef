"""The fold of the example log on several processes: the state of one learner, its rows spread over all."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.encode import layout_of
from services.common.errors import InvalidInput
from services.common.records import INITIAL
from services.common.spec import ModelSpec
from services.trainer.distributed.peers import Peers, merged
from services.trainer.distributed.shards import Asked
from services.trainer.distributed.split import Part, Plan, owners_of, plan_of
from services.trainer.distributed.strategy import DistributedStrategy, Mine
from services.trainer.examples import Batch
from services.trainer.groups import Group, fill_rows, without_rows
from services.trainer.learner import Arrays, Blocks, Learner, LearnerConfig, StrategyFactory
from services.trainer.strategies.base import Learned
from services.trainer.tables import RowTable


class DistributedLearner(Learner):
    """Everything but rows is the same on every process, and what one process would have."""

    def __init__(
        self,
        spec: ModelSpec,
        config: LearnerConfig,
        make: StrategyFactory,
        blocks: Blocks | None,
        peers: Peers,
        staleness: int = 0,
    ) -> None:
        """`make` gives a `DistributedStrategy`. `staleness`: steps whose gradients a row may lack when it is read."""
        super().__init__(spec, config, make, blocks)
        assert isinstance(self.strategy, DistributedStrategy)
        self._together, self._peers, self._staleness = self.strategy, peers, staleness
        self.oldest = 0
        """Steps that the oldest row read so far lacked."""
        self._whole: Arrays = {}

    def apply(self, batch: Batch) -> list[Learned]:
        """See `Learner`. Rows are asked for `staleness` steps ahead; at the end of a batch none is on its way."""
        shards, steps, ahead, out = self._together.shards, self.reader.steps(batch), deque[Asked](), list[Learned]()
        shards.begin()
        planned = (plan_of(step, k, self.spec, self._peers.count) for k, step in enumerate(steps))
        while True:
            ahead.extend(shards.ask(plan) for plan in islice(planned, self._staleness + 1 - len(ahead)))
            if not ahead:
                break
            out.append(self._learn(ahead.popleft()))
            shards.stepped()
        self.positions |= {partition: end for partition, (_, end) in batch.ranges.items()}
        self._expire()
        return out

    def gather(self) -> None:
        """Bring all rows to the first process, for `pack_rows`; every process calls it."""
        packed: Arrays = {}
        for name, table in self._named_tables():
            table.unsaved()
            table.changed()  # no deltas are written: slots that rows left are free again
            packed |= {f"{name}.{k}": v for k, v in table.pack(np.flatnonzero(table.live)).items()}
        parts = self._peers.collected(packed)
        if parts:
            self._whole = merged(parts)
            for name, _ in self._named_tables():
                self._whole[f"{name}.slots"] = np.arange(self._rows(name))

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Arrays]]:
        """See `Learner`; after `gather`, on the first process."""
        meta, files = super().snapshot()
        for name, _ in self._named_tables():
            meta["tables"][name]["used"] = self._rows(name)
        return meta, files

    def pack_rows(self, choose: Callable[[RowTable], NDArray[np.int64]]) -> Arrays:
        """All rows, once; `choose` is not asked."""
        whole, self._whole = self._whole, {}
        return whole

    def restore(self, meta: dict[str, Any], files: dict[str, Arrays], rows: Sequence[Arrays]) -> None:
        """See `Learner`. Raises InvalidInput when this process's share of the rows is more than it may hold."""
        mine: Arrays = {}
        tables = {name: dict(table) for name, table in meta["tables"].items()}
        for name, table in self._named_tables():
            packed = self._share(name, table, tables[name]["used"], rows)
            tables[name]["used"] = len(packed["slots"])
            mine |= {f"{name}.{k}": v for k, v in packed.items()}
        super().restore(meta | {"tables": tables}, files, [mine])

    def _rows(self, name: str) -> int:
        return len(self._whole[f"{name}.keys"])

    def _share(self, name: str, table: RowTable, used: int, rows: Sequence[Arrays]) -> Arrays:
        """The live rows of a checkpoint's chain that this process owns, in slots from 0."""
        whole = RowTable(replace(table.config, max_rows=max(1, used)))
        for packed in rows:
            whole.unpack({k.removeprefix(f"{name}."): v for k, v in packed.items() if k.startswith(f"{name}.")})
        slots = np.flatnonzero(whole.live)
        slots = slots[owners_of(whole.keys[slots], self._peers.count) == self._peers.rank]
        if len(slots) > table.config.max_rows:
            detail = f"{len(slots):,} rows of the checkpoint for one process, which may hold {table.config.max_rows:,}"
            raise InvalidInput("max_rows", "too_small", detail)
        return whole.pack(slots) | {"slots": np.arange(len(slots))}

    def _learn(self, asked: Asked) -> Learned:
        plan = asked.plan
        own = [(k, self._encoded(part)) for k, part in enumerate(plan.parts) if part.impressions[self._peers.rank]]
        asked.wait()  # encoded while the rows were on their way
        self.oldest = max(self.oldest, asked.age)
        for k, group in own:
            run = plan.parts[k].run(self._peers.rank)
            group.item_slots = asked.items.find(group.item_keys)
            group.user_slots = asked.users.find(plan.parts[k].user_keys[run])
            fill_rows(group, asked.items, asked.users)
        self._score_together(plan, own)
        self._finished(plan.step)
        self.steps += 1
        learned = Learned(0.0, 0.0)
        if self.learning:
            learned = self._together.learn_together(asked, own, self.spec, self.steps)
        self._count(plan.step)
        return learned

    def _encoded(self, part: Part) -> Group:
        examples = part.examples[part.run(self._peers.rank)]
        layout = layout_of([example.impression for example in examples], self.spec)
        return without_rows(examples, self.spec, layout, part.items_of(self._peers.rank), self.config.weights)

    def _score_together(self, plan: Plan, own: Mine) -> None:
        """Score what appeared, each process its own impressions; all keep all scores."""
        for k, part in enumerate(plan.parts):
            if part.kind != INITIAL:
                continue
            group = next((group for n, group in own if n == k), None)
            mine = np.zeros((part.impressions[self._peers.rank], part.layout.candidates), np.float32)
            if group is not None:
                mine[:, : group.layout.candidates] = self.scores(group)
            self.progress.scored(part.examples, self._peers.rows_of_all(mine, part.impressions), None)
