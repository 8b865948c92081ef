"""The whole state of an arm's learning as one fold of the example log: batch in, changed state out.

Everything that decides a weight is here and in a checkpoint: rows, dense weights, the optimiser's memory, positions,
the number of the step (the only source of chance) and the list of features.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from services.common.records import INITIAL
from services.common.spec import ModelSpec
from services.trainer.champion import Teacher
from services.trainer.distributions import Sample
from services.trainer.examples import Batch, Example, Reader, Step, StepSize
from services.trainer.graph import GraphConfig, GraphTables
from services.trainer.groups import Floats, Group, Tables, group_of, groups_of, sample_of
from services.trainer.privacy.catalogue import CatalogueTable
from services.trainer.progress import Progress, RunningLoss
from services.trainer.scale import Scale
from services.trainer.strategies.base import Learned, Strategy, Update
from services.trainer.strategies.weights import WeightConfig
from services.trainer.tables import RowConfig, RowTable

Arrays = dict[str, NDArray[Any]]
Blocks = dict[str, list[list[int]]]

_MOST_SAMPLES = 1_000
"""Samples kept for a caller who is slow to take them."""

GOLDEN = 64
"""Newest impressions kept as recorded requests of the next release."""

_EXPIRY_STEP_US = 3600 * 1_000_000
"""How often, on the log clock, rows are looked through for old ones."""


@dataclass(frozen=True)
class LearnerConfig:
    """What a learner is made from, beside the list of features."""

    rows: RowConfig = field(default_factory=RowConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    step: StepSize = StepSize()
    share: float = 1.0
    expiry_us: int = 30 * 24 * 3600 * 1_000_000
    window: int = 5_000
    arm: str = ""
    """Whose shoppers' impressions are learned from; empty = everybody's."""
    items: tuple[str, ...] | None = None
    """All items that have rows, and no others; None = those that are seen often enough."""
    graph: GraphConfig | None = None
    """Rows are smoothed over a graph of actions; None = they are read as they are kept."""
    scale: Scale | None = None
    """The heads that are a rating; None = none are."""


StrategyFactory = Callable[[ModelSpec, Tables, Blocks | None], Strategy]


class Watcher(Protocol):
    """Somebody who judges too."""

    def appeared(self, group: Group, scores: Floats, now_us: int) -> None:
        """A group of impressions was scored, [B, N], and is learned next."""
        ...

    def closed(self, example: Example) -> None:
        """The labels of an impression are final."""
        ...


class Learner:
    """Applies batches; owns everything that a checkpoint holds."""

    def __init__(
        self, spec: ModelSpec, config: LearnerConfig, make: StrategyFactory, blocks: Blocks | None = None
    ) -> None:
        self.spec, self.config = spec, config
        self.tables = _tables(config)
        self.strategy = make(spec, self.tables, blocks)
        self.reader = Reader(config.step, config.share, arm=config.arm)
        self.progress = Progress(config.window)
        self.running = RunningLoss()
        self.champion: Teacher | None = None
        self.watcher: Watcher | None = None
        self.learning = True
        """False: examples are scored and counted, and nothing moves."""
        self.recent: deque[Example] = deque(maxlen=GOLDEN)
        self.positions: dict[int, int] = {}
        self.entries = 0
        """Journal records applied."""
        self.steps = 0
        self.learned = 0
        """Examples learned from since the beginning."""
        self.released_at = 0
        """`learned` when the last release was made."""
        self.learned_up_to_us = 0
        """Event time of the newest action or impression learned."""
        self.log_us = 0
        self._expired_us = 0
        self._oldest_us = 0
        self._samples: deque[Sample] = deque(maxlen=_MOST_SAMPLES)

    def apply(self, batch: Batch) -> list[Learned]:
        """Score, then learn, step by step; the positions move behind the batch."""
        out = [self._step(step) for step in self.reader.steps(batch)]
        self.positions |= {partition: end for partition, (_, end) in batch.ranges.items()}
        self._expire()
        return out

    def take_oldest(self) -> int:
        """Arrival of the oldest action learned since the last call; 0 = none."""
        oldest, self._oldest_us = self._oldest_us, 0
        return oldest

    def take_samples(self) -> list[Sample]:
        """Features and clicks of each step since the last call, in order; what triggers look at."""
        samples = list(self._samples)
        self._samples.clear()
        return samples

    def adapt(self, spec: ModelSpec) -> None:
        """Take another list of features."""
        self.strategy.adapt(spec)
        self.spec = spec

    @torch.no_grad()
    def scores(self, group: Group, heads: int | slice = 0) -> Floats:
        """Probabilities [B, N] of a click, or [B, N, heads], of what the learner would release now."""
        ranker = self.strategy.served
        logits = ranker.logits(group.tensors(next(ranker.parameters()).device))
        out: Floats = torch.sigmoid(logits[:, :, heads]).cpu().numpy()
        return out

    def encode(self, examples: Sequence[Example]) -> Group:
        """Examples of one kind as a group, on the rows as they are."""
        return group_of(examples, self.spec, self.tables, self.config.weights)

    @property
    def filled(self) -> float:
        """Rows over the most there may be, of the fuller table."""
        return max(int(table.live[: table.next].sum()) / table.config.max_rows for _, table in self._named_tables())

    def prune(self, share: float) -> int:
        """Let the rows go that were not seen for longest, down to that share of the most; returns how many."""
        return sum(table.prune(int(share * table.config.max_rows)) for _, table in self._named_tables())

    def released(self, deep: bool = True) -> None:
        """A release is about to be made: its strategy's moment, and what the trigger counts from.

        `deep` False: what the strategy does at length is left for another time.
        """
        self.strategy.released(self.encode, self.steps, deep)
        self.released_at = self.learned

    @property
    def blocks(self) -> Blocks:
        """Feature ids block by block, as the ranker holds them."""
        ranker = self.strategy.ranker
        return {"user": ranker.user_numeric.ids, "item": ranker.item_numeric.ids}

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Arrays]]:
        """(plain data, arrays by file) of everything but the rows."""
        meta = {
            "positions": {str(p): offset for p, offset in self.positions.items()},
            "seen": {str(p): list(place) for p, place in self.reader.seen.items()},
            "spec": self.spec.to_json(),
            "champion": "" if self.champion is None else self.champion.release,
            "model": self.strategy.ranker.model,
            "sizes": asdict(self.strategy.ranker.sizes),
            "blocks": self.blocks,
            "tables": {name: {"used": t.next, "counted": t.sketch.added} for name, t in self._named_tables()},
            "graph": _described(self.config.graph),
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        dense = {name: np.ascontiguousarray(value.numpy()).copy() for name, value in self.strategy.state().items()}
        counts = {f"{name}.counts": table.sketch.counts for name, table in self._named_tables()}
        progress: Arrays = dict(self.progress.state())
        return meta, {"dense": dense | counts, "progress": progress}

    def restore(self, meta: dict[str, Any], files: dict[str, Arrays], rows: Sequence[Arrays]) -> None:
        """Take a checkpoint in; `rows` are the packed rows of its chain, the oldest first."""
        self.positions = {int(p): offset for p, offset in meta["positions"].items()}
        self.reader.seen = {int(p): (place[0], place[1]) for p, place in meta["seen"].items()}
        for name in _COUNTERS:
            setattr(self, name, meta.get(name, 0))
        other_graph = meta.get("graph") != _described(self.config.graph)
        for name, table in self._named_tables():
            for packed in rows:
                found = {k.removeprefix(f"{name}."): v for k, v in packed.items() if k.startswith(f"{name}.")}
                if other_graph:
                    found.pop("near", None)
                table.unpack(found)
            table.reopen(meta["tables"][name]["used"])
            table.sketch.counts = files["dense"][f"{name}.counts"].copy()
            table.sketch.added = meta["tables"][name]["counted"]
            if other_graph:
                table.touch_all()  # every row is read in another way from now on
        self.strategy.load({k: torch.from_numpy(v.copy()) for k, v in files["dense"].items() if ":" in k})
        self.progress.load(files["progress"])

    def pack_rows(self, choose: Callable[[RowTable], NDArray[np.int64]]) -> Arrays:
        """Rows of both tables for a checkpoint; `choose` says which slots."""
        return {f"{name}.{k}": v for name, t in self._named_tables() for k, v in t.pack(choose(t)).items()}

    def _step(self, step: Step) -> Learned:
        groups = groups_of(step, self.spec, self.tables, self.config.weights)
        teachers = self._judge(groups)
        finished = self._finished(step)
        self.steps += 1
        self._samples.append(sample_of(groups, self.spec, self.steps))
        update = Update(groups, self.steps, self.encode, teachers, finished)
        learned = self.strategy.learn(update) if self.learning else Learned(0.0, 0.0)
        self._count(step)
        return learned

    def _finished(self, step: Step) -> list[Example]:
        """Impressions whose labels became final in the step; the log's clock goes on, and shoppers are forgotten."""
        finished = [finally_labelled(example) for example in step.closed if self._closed(example)]
        self.log_us = max(self.log_us, step.log_time_us)
        for example in step.forgets:
            self._forget(example)
        return finished

    def _count(self, step: Step) -> None:
        self.recent.extend(step.initial)
        arrivals = [example.received_us for example in step.flips]
        self._oldest_us = min([*arrivals, *([self._oldest_us] if self._oldest_us else [])], default=0)
        news = [*step.initial, *step.flips]
        self.learned += len(news)
        self.learned_up_to_us = max([self.learned_up_to_us, *(example.event_time_us for example in news)])

    def _forget(self, example: Example) -> None:
        self.tables.user.remove([example.user])
        self.strategy.forget(example.user, example.event_time_us)
        kept = [e for e in self.recent if e.user != example.user or e.event_time_us >= example.event_time_us]
        self.recent = deque(kept, maxlen=GOLDEN)

    def _judge(self, groups: Sequence[Group]) -> list[Floats | None]:
        """Score what appeared; returns the champion's probabilities of each group."""
        out: list[Floats | None] = []
        for group in groups:
            theirs = None if self.champion is None else self.champion.scores(group, self.spec, self.tables)
            if theirs is not None:
                self.running.add(theirs[:, :, 0], group.negatives, group.positives[:, :, 0])
            if group.kind == INITIAL:
                clicks = None if theirs is None else theirs[:, :, 0]
                ours = self.scores(group)
                self.progress.scored(group.examples, ours, clicks)
                if self.watcher is not None:
                    self.watcher.appeared(group, ours, max(example.time_us for example in group.examples))
            elif self.config.scale is not None:
                self.progress.rated(*self.config.scale.judged(self.scores(group, slice(None)), group.positives))
            out.append(theirs)
        return out

    def _closed(self, example: Example) -> bool:
        if self.watcher is not None:
            self.watcher.closed(example)
        return self.progress.closed(example)

    def _expire(self) -> None:
        if self.log_us - self._expired_us >= _EXPIRY_STEP_US:
            self._expired_us = self.log_us
            for _, table in self._named_tables():
                table.expire(self.log_us - self.config.expiry_us)

    def _named_tables(self) -> list[tuple[str, RowTable]]:
        return [("item", self.tables.item), ("user", self.tables.user)]


def _tables(config: LearnerConfig) -> Tables:
    if config.graph is not None:
        return GraphTables(config.rows, config.graph)
    items = RowTable(config.rows) if config.items is None else CatalogueTable(config.rows, config.items)
    return Tables(items, RowTable(config.rows))


def _described(graph: GraphConfig | None) -> list[int] | None:
    return None if graph is None else [graph.layers, graph.items, graph.shoppers]


def finally_labelled(example: Example) -> Example:
    """A CLOSED example that can be learned from: every item shown weighs 1.

    What was left out when it appeared, by sampling, is there again: its final list is whole.
    """
    items = example.impression.items
    return replace(example, weights=np.array([items[k].shown for k in example.items], np.float32))


_COUNTERS = ("entries", "steps", "learned", "released_at", "learned_up_to_us", "log_us", "_expired_us")
