"""Online learning: every example once, in the order of the log, as soon as it comes.

A candidate that appears is learned with label 0; when its action arrives, the *flip* adds loss(1) - loss(0) of
that head with the same weight (design: joiner). Losses are summed, not averaged over the step: a flip alone in its
step must weigh what the same candidate weighed among a thousand others, or the two would not add up.
What else happens in an update are `parts`, each asked at fixed points.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from services.common.records import CLOSED, INITIAL
from services.common.spec import ModelSpec
from services.trainer import retrieval
from services.trainer.groups import Floats, Group, Tables
from services.trainer.models.base import RankingModel, carry
from services.trainer.retrieval import Pool, TwoTower
from services.trainer.strategies import parts as pieces
from services.trainer.strategies.base import Encode, Learned, Update
from services.trainer.strategies.held import HeldOut
from services.trainer.strategies.losses import CrossEntropy, GroupLoss, Labels, PointLoss
from services.trainer.strategies.optimisers import DenseConfig, DenseOptimiser
from services.trainer.strategies.parts import Moment, Part, Seen
from services.trainer.strategies.rows import RowSteps, TouchedRows

ROW_MASKS = ("row_mask", "history_row_mask", "user_row_mask")
"""In the order in which it is drawn what is hidden."""


@dataclass(frozen=True)
class OnlineConfig:
    """How the online strategy learns."""

    dense: DenseConfig = field(default_factory=DenseConfig)
    heads: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight of each head's loss."""
    under: tuple[int, ...] = ()
    """Of each head the one that it is learned under; see `GroupLoss`."""
    loss: PointLoss = field(default_factory=CrossEntropy)
    labels: Labels = "flips"
    row_dropout: float = 0.05
    """Share of rows hidden in learning: trains the path of items and shoppers that have none."""
    seed: int = 1
    half: bool = False
    """Products of matrices in bfloat16 in learning; losses, weights and whatever is scored stay in float32."""
    full_step: int = 8
    """Impressions from which a step has its full rate; fewer have the square root of their share of it."""
    accumulate: int = 1
    """Steps whose gradients are summed before anything moves."""
    hold_out: float = 0.0
    """Share of impressions, by hash, that is learned only after the release that it helped to decide on."""


class OnlineStrategy:
    """Row-wise Adagrad on touched rows, one optimiser on the dense part, whose running average is what is served."""

    def __init__(
        self,
        ranker: RankingModel,
        towers: TwoTower,
        tables: Tables,
        config: OnlineConfig,
        content_dim: int,
        parts: Sequence[Part] = (),
    ) -> None:
        self.ranker, self.towers, self.tables, self.config = ranker, towers, tables, config
        self.parts = tuple(parts)
        self._dense = DenseOptimiser(ranker, config.dense)
        self.served = self._averaged()
        self._dense_towers = DenseOptimiser(towers, config.dense)
        self._pool = Pool.empty(content_dim)
        self._device = next(ranker.parameters()).device
        weights = torch.tensor(config.heads, device=self._device)
        self.loss = GroupLoss(config.loss, weights, config.labels, config.under)
        self._rows = (RowSteps(tables.item), RowSteps(tables.user))
        self._waiting = {"steps": 0, "impressions": 0}
        self._held = HeldOut(config.hold_out)
        self._new = CLOSED if config.labels in ("waiting", "at_release") else INITIAL
        """The kind of example in which an impression is learned for the first time."""
        for part in self.parts:
            part.begin(self._dense)

    def learn(self, update: Update) -> Learned:
        """One update of dense weights, rows and retrieval matrices from a step's groups."""
        update = replace(update, finished=self._held.keep(update.finished))
        groups, teachers = self._wanted(update)
        more = [group for part in self.parts for group in part.more(update)]
        if self.config.labels != "at_release":
            groups += more
        learned = Learned(0.0, 0.0)
        if _weigh(groups):
            learned = self._step(groups, teachers + [None] * (len(groups) - len(teachers)), update.number)
        if _weigh(update.groups):
            self._learn_towers(update.groups)
        for part in self.parts:
            part.learned(update, self.tables)
        return learned

    def released(self, encode: Encode, number: int, deep: bool = True) -> None:
        """See `Strategy`."""
        held = [encode(examples) for examples in self._held.take(chunk=64)]
        seed = itertools.count(1)

        def step(groups: Sequence[Group]) -> None:
            # Far from the numbers of plain steps: the same chance twice would hide the same rows.
            self._step(groups, [None] * len(groups), (number << 24) + next(seed))

        moment = Moment(self._dense, held, self._loss_under, encode, step, self.tables, number, deep)
        for part in self.parts:
            part.released(moment)
        for group in held:
            step([group])

    def received(self) -> None:
        """The weights are now those of a federation's round, which begins: what parts hold them against."""
        for part in self.parts:
            part.received(self._dense)

    def forget(self, user: str, before_us: int) -> None:
        """See `Strategy`."""
        self._held.forget(user, before_us)
        for part in self.parts:
            part.forget(user, before_us)

    def adapt(self, spec: ModelSpec) -> None:
        """Carry weights, the optimiser's memory and what parts remember over to another list of features."""
        old, new = self.ranker, self.ranker.adapted(spec)
        fresh = DenseOptimiser(new, self.config.dense)
        memory: dict[str, Tensor] = {}
        before, after = self._dense.state(), fresh.state()
        for kind in {name.split(".", 1)[0] for name in after}:
            ours = {n.removeprefix(f"{kind}."): v for n, v in before.items() if n.startswith(f"{kind}.")}
            theirs = {n.removeprefix(f"{kind}."): v for n, v in after.items() if n.startswith(f"{kind}.")}
            memory |= {f"{kind}.{name}": value for name, value in carry(ours, theirs, old, new).items()}
        fresh.load(memory, self._dense.counts)
        for part in self.parts:
            for kind, vector in part.vectors.items():
                zero = fresh.named(torch.zeros_like(fresh.flat))
                part.vectors[kind] = fresh.joined(carry(self._dense.named(vector), zero, old, new))
        self.ranker, self._dense = new, fresh
        self.served = self._averaged()
        for part in self.parts:
            part.adapt(spec)

    def state(self) -> dict[str, Tensor]:
        """See `Strategy.state`."""
        groups = {
            "ranker": self.ranker.state_dict(),
            "towers": self.towers.state_dict(),
            "ranker_memory": self._dense.state(),
            "towers_memory": self._dense_towers.state(),
            "pool": {"content": self._pool.content, "keys": self._pool.keys, "count": self._pool.count},
            "counts": {"ranker": torch.tensor(self._dense.counts), "towers": torch.tensor(self._dense_towers.counts)},
            **{f"part-{part.name}": pieces.packed(part, self._dense) for part in self.parts},
        }
        if self.config.accumulate > 1:
            groups["accumulated"] = self._accumulated()
        if self.config.hold_out:
            groups["held"] = self._held.state()
        return {f"{group}:{n}": value.detach().cpu() for group, named in groups.items() for n, value in named.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Strategy.load`."""

        def group(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}:"): v for k, v in state.items() if k.startswith(f"{name}:")}

        with torch.no_grad():
            self.ranker.load_state_dict(group("ranker"))
            self.towers.load_state_dict(group("towers"))
        self._dense.load(group("ranker_memory"), group("counts")["ranker"].tolist())
        self._dense_towers.load(group("towers_memory"), group("counts")["towers"].tolist())
        self._pool = Pool(**{name: value.clone() for name, value in group("pool").items()})
        for part in self.parts:
            if found := group(f"part-{part.name}"):
                pieces.unpack(part, self._dense, found)
            else:
                part.begin(self._dense)
        if found := group("held"):
            self._held.load(found)
        if self.config.accumulate > 1 and (found := group("accumulated")):
            self._take_accumulated(found)

    def _wanted(self, update: Update) -> tuple[list[Group], list[Floats | None]]:
        """The groups of a step that are learned now, and their teachers."""
        if self.config.labels == "at_release":
            return [], []
        if self.config.labels == "waiting":
            return [update.encode(update.finished)] if update.finished else [], []
        for group in update.groups:
            self._held.leave_out(group)
        return list(update.groups), list(update.teachers)

    def _step(self, groups: Sequence[Group], teachers: Sequence[Floats | None], number: int) -> Learned:
        chance = np.random.Generator(np.random.Philox(key=[self.config.seed, number]))
        items = TouchedRows.of(self.tables.item, [group.item_slots for group in groups], self._device)
        users = TouchedRows.of(self.tables.user, [group.user_slots for group in groups], self._device)
        if not self._waiting["steps"]:
            self._dense.zero()
        total = torch.zeros((), device=self._device)
        for k, group in enumerate(groups):
            kept = self._kept({name: group.arrays[name].shape for name in ROW_MASKS}, chance)
            inputs = self._inputs(group, items.values, items.places[k], users.values, users.places[k], kept)
            if self._is_new(group) and self.ranker.due(number):
                self.ranker.observe(inputs)
            total = total + self._loss_of(group, inputs, teachers[k], chance)
        weight = float(sum(group.negatives.sum() for group in groups))
        loss = float(total.detach())
        total.backward()  # type: ignore[no-untyped-call]
        if not self._dense.finite() or not np.isfinite(loss):
            self._forget_gradients()
            return Learned(loss, weight, skipped=True)
        for steps, rows in zip(self._rows, (items, users), strict=True):
            steps.add(rows)
        self._waiting["steps"] += 1
        self._waiting["impressions"] += sum(len(group.negatives) for group in groups if self._is_new(group))
        if self._waiting["steps"] >= self.config.accumulate:
            self._move()
        return Learned(loss, weight)

    def _is_new(self, group: Group) -> bool:
        """True when its impressions are learned for the first time."""
        return group.kind == self._new and not group.copy

    def _loss_of(
        self, group: Group, inputs: dict[str, Tensor], teacher: Floats | None, chance: np.random.Generator
    ) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.half):
            logits = self.ranker.logits(inputs).float()
        own = self.loss(logits, group)
        seen = Seen(group, inputs, logits, own, teacher, self.ranker, self.loss, chance)
        total = own
        for part in self.parts:
            term = part.term(seen)
            if term is not None:
                total = total + term
        return total

    def _move(self) -> None:
        """Take the gradients that have come together."""
        impressions = self._waiting["impressions"]
        for part in self.parts:
            part.gradient(self._dense, impressions)
        share = self._dense.step(min(1.0, max(1, impressions) / self.config.full_step) ** 0.5, impressions)
        items, users = self._rows
        self.tables.learn(items.take(), users.take(), share)
        for part in self.parts:
            part.stepped(self._dense)
        self._waiting = {"steps": 0, "impressions": 0}

    def _forget_gradients(self) -> None:
        """Nothing of what was summed can be told apart from what is not finite."""
        for steps in self._rows:
            steps.clear()
        self._waiting = {"steps": 0, "impressions": 0}

    def _accumulated(self) -> dict[str, Tensor]:
        out = {"gradient": self._dense.gradient, "waiting": torch.tensor(list(self._waiting.values()))}
        for name, steps in zip(("item", "user"), self._rows, strict=True):
            out |= {f"{name}.{n}": torch.from_numpy(value) for n, value in steps.state().items()}
        return out

    def _take_accumulated(self, found: Mapping[str, Tensor]) -> None:
        self._dense.gradient.copy_(found["gradient"])
        self._waiting = dict(zip(("steps", "impressions"), found["waiting"].tolist(), strict=True))
        for name, steps in zip(("item", "user"), self._rows, strict=True):
            steps.load({n: found[f"{name}.{n}"].numpy() for n in ("slots", "gradients")})

    def _loss_under(self, weights: Tensor, groups: Sequence[Group]) -> float:
        before = self._dense.flat.clone()
        self._dense.flat.copy_(weights)
        with torch.no_grad():
            losses = [float(self.loss(self.ranker.logits(group.tensors(self._device)), group)) for group in groups]
        self._dense.flat.copy_(before)
        return sum(losses) / max(1.0, float(sum(group.negatives.sum() for group in groups)))

    def _averaged(self) -> RankingModel:
        twin = copy.deepcopy(self.ranker)
        self._dense.averaged(twin)
        return twin

    def _inputs(
        self,
        group: Group,
        items: Tensor,
        item_places: NDArray[np.int64],
        users: Tensor,
        user_places: NDArray[np.int64],
        kept: Mapping[str, NDArray[np.bool_]],
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
        for name in ROW_MASKS:
            x[name] = x[name] * torch.from_numpy(kept[name]).to(self._device)
        return x

    def _kept(self, shapes: Mapping[str, tuple[int, ...]], chance: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """Which rows are not hidden, by mask."""
        share = self.config.row_dropout
        return {name: chance.random(shape, dtype=np.float32) >= share for name, shape in shapes.items()}

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


def _weigh(groups: Sequence[Group]) -> bool:
    """True when anything in them is to be learned."""
    return any(group.negatives.any() or group.positives.any() for group in groups)
