"""Online learning: every example once, in the order of the log, as soon as it comes.

A candidate that appears is learned with label 0; when its action arrives, the *flip* adds loss(1) - loss(0) of
that head with the same weight (design: joiner). Losses are summed, not averaged over the step: a flip alone in its
step must weigh what the same candidate weighed among a thousand others, or the two would not add up.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from services.common.records import INITIAL
from services.common.spec import ModelSpec
from services.trainer import retrieval
from services.trainer.groups import Group, Tables
from services.trainer.keyindex import Slots
from services.trainer.models.base import RankingModel, carry
from services.trainer.retrieval import Pool, TwoTower
from services.trainer.strategies.base import Learned
from services.trainer.strategies.optimisers import DenseConfig, DenseOptimiser
from services.trainer.strategies.weights import WeightConfig
from services.trainer.tables import RowTable


@dataclass(frozen=True)
class OnlineConfig:
    """How the online strategy learns."""

    dense: DenseConfig = field(default_factory=DenseConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    heads: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight of each head's loss."""
    row_dropout: float = 0.05
    """Share of rows hidden in learning: trains the path of items and shoppers that have none."""
    seed: int = 1
    full_step: int = 8
    """Impressions from which a step has its full rate; fewer have the square root of their share of it."""


@dataclass
class _Rows:
    """The rows of one table that a step touches, once each."""

    slots: Slots
    values: Tensor
    places: list[NDArray[np.int64]]


class OnlineStrategy:
    """Row-wise Adagrad on touched rows, Adam or Adagrad on the dense part, whose running average is what is served."""

    def __init__(
        self, ranker: RankingModel, towers: TwoTower, tables: Tables, config: OnlineConfig, content_dim: int
    ) -> None:
        self.ranker, self.towers, self.tables, self.config = ranker, towers, tables, config
        self._dense = DenseOptimiser(ranker, config.dense)
        self.served = self._averaged()
        self._dense_towers = DenseOptimiser(towers, config.dense)
        self._pool = Pool.empty(content_dim)
        self._device = next(ranker.parameters()).device
        self._heads = torch.tensor(config.heads, device=self._device)

    def learn(self, groups: Sequence[Group], number: int) -> Learned:
        """One update of dense weights, rows and retrieval matrices from a step's groups."""
        if not any(group.negatives.any() or group.positives.any() for group in groups):
            return Learned(0.0, 0.0)
        chance = np.random.Generator(np.random.Philox(key=[self.config.seed, number]))
        items = self._rows(self.tables.item, [group.item_slots for group in groups])
        users = self._rows(self.tables.user, [group.user_slots for group in groups])
        self._dense.zero()
        total = torch.zeros((), device=self._device)
        for k, group in enumerate(groups):
            inputs = self._inputs(group, items.values, items.places[k], users.values, users.places[k], chance)
            if group.kind == INITIAL and self.ranker.due(number):
                self.ranker.observe(inputs)
            total = total + self._loss(self.ranker.logits(inputs), group)
        weight = float(sum(group.negatives.sum() for group in groups))
        loss = float(total.detach())
        total.backward()  # type: ignore[no-untyped-call]
        if not self._dense.finite() or not np.isfinite(loss):
            return Learned(loss, weight, skipped=True)
        appeared = sum(len(group.negatives) for group in groups if group.kind == INITIAL)
        share = self._dense.step(min(1.0, max(1, appeared) / self.config.full_step) ** 0.5, appeared)
        for table, rows in ((self.tables.item, items), (self.tables.user, users)):
            gradient = rows.values.grad
            if gradient is not None:
                known = rows.slots >= 0
                table.learn(rows.slots[known], gradient.cpu().numpy()[known], share)
        self._learn_towers(groups)
        return Learned(loss, weight)

    def adapt(self, spec: ModelSpec) -> None:
        """Carry weights and the optimiser's memory over to another list of features."""
        old, new = self.ranker, self.ranker.adapted(spec)
        fresh = DenseOptimiser(new, self.config.dense)
        memory: dict[str, Tensor] = {}
        before, after = self._dense.state(), fresh.state()
        for kind in {name.split(".", 1)[0] for name in after}:
            ours = {n.removeprefix(f"{kind}."): v for n, v in before.items() if n.startswith(f"{kind}.")}
            theirs = {n.removeprefix(f"{kind}."): v for n, v in after.items() if n.startswith(f"{kind}.")}
            memory |= {f"{kind}.{name}": value for name, value in carry(ours, theirs, old, new).items()}
        fresh.load(memory, self._dense.counts)
        self.ranker, self._dense = new, fresh
        self.served = self._averaged()

    def state(self) -> dict[str, Tensor]:
        """See `Strategy.state`."""
        parts = {
            "ranker": self.ranker.state_dict(),
            "towers": self.towers.state_dict(),
            "ranker_memory": self._dense.state(),
            "towers_memory": self._dense_towers.state(),
            "pool": {"content": self._pool.content, "keys": self._pool.keys, "count": self._pool.count},
            "counts": {"ranker": torch.tensor(self._dense.counts), "towers": torch.tensor(self._dense_towers.counts)},
        }
        return {f"{part}:{n}": value.detach().cpu() for part, named in parts.items() for n, value in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Strategy.load`."""

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}:"): v for k, v in state.items() if k.startswith(f"{name}:")}

        with torch.no_grad():
            self.ranker.load_state_dict(part("ranker"))
            self.towers.load_state_dict(part("towers"))
        self._dense.load(part("ranker_memory"), part("counts")["ranker"].tolist())
        self._dense_towers.load(part("towers_memory"), part("counts")["towers"].tolist())
        self._pool = Pool(**{name: value.clone() for name, value in part("pool").items()})

    def _averaged(self) -> RankingModel:
        twin = copy.deepcopy(self.ranker)
        self._dense.averaged(twin)
        return twin

    def _rows(self, table: RowTable, slots: Sequence[Slots]) -> _Rows:
        unique, back = np.unique(np.concatenate(slots), return_inverse=True)
        values = torch.from_numpy(table.gather(unique)[0]).to(self._device).requires_grad_()
        return _Rows(unique, values, np.split(back, np.cumsum([len(s) for s in slots])[:-1]))

    def _inputs(
        self,
        group: Group,
        items: Tensor,
        item_places: NDArray[np.int64],
        users: Tensor,
        user_places: NDArray[np.int64],
        chance: np.random.Generator,
    ) -> dict[str, Tensor]:
        """The group's inputs with rows that can be learned, some hidden."""
        layout, x = group.layout, group.tensors(self._device)
        count = len(layout.items)
        for name, at, places in (
            ("row", layout.items_at, item_places[:count]),
            ("history_row", layout.history_at, item_places[count:]),
        ):
            index = np.zeros(group.arrays[name].shape[:2], np.int64)
            index[at] = places
            x[name] = F.embedding(torch.from_numpy(index).to(self._device), items)
        x["user_row"] = F.embedding(torch.from_numpy(user_places).to(self._device), users)
        for name in ("row_mask", "history_row_mask", "user_row_mask"):
            kept = chance.random(group.arrays[name].shape, dtype=np.float32) >= self.config.row_dropout
            x[name] = x[name] * torch.from_numpy(kept).to(self._device)
        return x

    def _loss(self, logits: Tensor, group: Group) -> Tensor:
        """sum of weight × loss(0) over what appeared + weight × (loss(1) - loss(0)) = -weight × logit over flips."""
        negatives = torch.from_numpy(group.negatives).to(self._device).unsqueeze(-1)
        positives = torch.from_numpy(group.positives).to(self._device)
        return ((F.softplus(logits) * negatives - logits * positives) * self._heads).sum()

    def _learn_towers(self, groups: Sequence[Group]) -> None:
        clicks = next((group for group in groups if group.positives[:, :, 0].any()), None)
        if clicks is not None and self._pool.size:
            rows = torch.from_numpy(self.tables.item.gather(self.tables.item.find(self._pool.key_array()))[0])
            self._dense_towers.zero()
            value = retrieval.loss(self.towers, clicks, self._pool, rows)
            value.backward()  # type: ignore[no-untyped-call]
            if self._dense_towers.finite():
                self._dense_towers.step(impressions=sum(len(group.negatives) for group in groups))
        for group in groups:
            if group.kind == INITIAL:
                self._pool.add(group)
