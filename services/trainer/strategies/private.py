"""Private learning: what others see moves by noisy sums over rounds of shoppers (DP-SGD; Abadi et al., 2016).

Others see the dense weights and the rows of items; both move at the end of a round alone, by the Gaussian mechanism
(`privacy.mechanism`). A shopper's own row moves at once and without noise: it is read for that shopper alone, so that
the answers to all others are a function of the noisy sums (joint differential privacy by the billboard lemma; Hsu et
al., 2014). Statistics of numeric features and the retrieval matrices would see shoppers without noise: they stay as
they began.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from services.common.errors import InvalidInput
from services.common.ids import key_of
from services.trainer.examples import Example
from services.trainer.groups import Group, Tables
from services.trainer.models.base import RankingModel
from services.trainer.privacy import accountant
from services.trainer.privacy.catalogue import CatalogueTable
from services.trainer.privacy.config import PrivacyConfig
from services.trainer.privacy.ledger import Entry, Ledger
from services.trainer.privacy.mechanism import SECRET_BYTES, Contribution, RoundSum, noise_source, summed
from services.trainer.privacy.rounds import Round
from services.trainer.privacy.selection import SelectedSum
from services.trainer.retrieval import TwoTower
from services.trainer.strategies.base import Encode, Learned, Update
from services.trainer.strategies.online import ROW_MASKS, OnlineConfig, OnlineStrategy
from services.trainer.strategies.parts import Part
from services.trainer.strategies.rows import TouchedRows

log = logging.getLogger(__name__)


class PrivateStrategy(OnlineStrategy):
    """Shoppers' rows as in online learning; everything else round by round, within a budget."""

    def __init__(
        self,
        ranker: RankingModel,
        towers: TwoTower,
        tables: Tables,
        config: OnlineConfig,
        content_dim: int,
        parts: Sequence[Part],
        privacy: PrivacyConfig,
        ledger: Ledger,
    ) -> None:
        """`tables.item` is a `CatalogueTable`."""
        super().__init__(ranker, towers, tables, config, content_dim, parts)
        assert isinstance(tables.item, CatalogueTable)
        self._items = tables.item
        self.privacy, self.ledger = privacy, ledger
        self.secret = secrets.token_bytes(SECRET_BYTES)
        """Of this arm; from its first checkpoint on it comes from there."""
        self.round = Round(privacy.cap)
        self.rounds = 0
        """Rounds learned from."""
        self._full = False
        self._count()

    @property
    def stopped(self) -> bool:
        """True when the budget has no room for another round, and none is to be repeated after a restart."""
        return self._full and self.rounds >= self.ledger.newest

    def learn(self, update: Update) -> Learned:
        """Move the rows of the step's shoppers; move the rest when a round is full."""
        learned = self._learn_shoppers(update)
        if not self.stopped:
            for group in update.groups:
                self.round.add(group.examples)
            if len(self.round) >= self.privacy.shoppers:
                self._finish(update.encode)
                self.round.clear()
        return replace(learned, epsilon=self.epsilon)

    def forget(self, user: str, before_us: int) -> None:
        """See `Strategy`."""
        super().forget(user, before_us)
        self.round.forget(user, before_us)

    def state(self) -> dict[str, Tensor]:
        """See `Strategy`; holds the secret of the noise."""
        own = {
            "secret": torch.from_numpy(np.frombuffer(self.secret, np.uint8).copy()),
            "rounds": torch.tensor(self.rounds),
            "spent": torch.tensor(sorted(self.ledger.spent.items()), dtype=torch.float64).reshape(-1, 2),
            "epsilon": torch.tensor(self.epsilon, dtype=torch.float64),
        }
        waiting = {f"round.{name}": value for name, value in self.round.state().items()}
        return super().state() | {f"privacy:{name}": value for name, value in (own | waiting).items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Strategy`: what was spent stays spent, whatever an older checkpoint says.

        Raises InvalidInput for weights that were learned without privacy.
        """
        own = {k.removeprefix("privacy:"): v for k, v in state.items() if k.startswith("privacy:")}
        if not own:
            raise InvalidInput("privacy", "not_from_the_start", "this arm has learned without it; use another arm")
        super().load(state)
        self.secret = own["secret"].numpy().tobytes()
        self.rounds = int(own["rounds"])
        self.round.load({k.removeprefix("round."): v for k, v in own.items() if k.startswith("round.")})
        self.ledger.at_least(Counter({noise: int(rounds) for noise, rounds in own["spent"].tolist()}))
        self._count()

    def total(self, encode: Encode) -> RoundSum | SelectedSum:
        """The sum over the round's shoppers, each clipped, without noise."""
        size, chosen = (len(self._dense.flat), self._items.slots(), self._items.config.dim), self.privacy.selection
        out = RoundSum(*size) if chosen is None else SelectedSum(*size, chosen)
        for user, examples in self.round.shoppers():
            out.add(self.contribution(user, examples, encode).clipped(self.privacy.clip))
        return out

    def contribution(self, user: str, examples: Sequence[Sequence[Example]], encode: Encode) -> Contribution:
        """The gradient of one shopper's loss: a function of the public weights and of that shopper alone."""
        groups = [encode(kind) for kind in examples]
        items = TouchedRows.of(self._items, [group.item_slots for group in groups], self._device)
        users = TouchedRows.of(self.tables.user, [group.user_slots for group in groups], self._device)
        key = np.array([key_of(user), self.config.seed], np.uint64)
        chance = np.random.Generator(np.random.Philox(key=key, counter=self.rounds))
        self._dense.zero()
        total = torch.zeros((), device=self._device)
        for k, group in enumerate(groups):
            kept = self._kept({name: group.arrays[name].shape for name in ROW_MASKS}, chance)
            inputs = self._inputs(group, items.values, items.places[k], users.values, users.places[k], kept)
            total = total + self.loss(self.ranker.logits(inputs), group)
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        found = items.values.grad
        rows = np.zeros(items.values.shape) if found is None else found.cpu().numpy()
        slots, rows = summed([items.slots], [rows], self._items.config.dim)
        return Contribution(self._dense.gradient.cpu().numpy().astype(np.float64), slots, rows)

    def _learn_shoppers(self, update: Update) -> Learned:
        """Rows of shoppers, from their own examples and the public weights."""
        groups = [group for group in update.groups if group.negatives.any() or group.positives.any()]
        if not groups:
            return Learned(0.0, 0.0)
        chance = np.random.Generator(np.random.Philox(key=[self.config.seed, update.number]))
        items = TouchedRows.of(self._items, [group.item_slots for group in groups], self._device)
        users = TouchedRows.of(self.tables.user, [group.user_slots for group in groups], self._device)
        total = torch.zeros((), device=self._device)
        for k, group in enumerate(groups):
            kept = self._kept({name: group.arrays[name].shape for name in ROW_MASKS}, chance)
            inputs = self._inputs(group, items.values, items.places[k], users.values, users.places[k], kept)
            total = total + self.loss(self.ranker.logits(inputs), group)
        (slope,) = torch.autograd.grad(total, [users.values], allow_unused=True)
        if slope is not None:
            # One shopper's broken number must not keep the others from learning.
            users.values.grad = torch.where(torch.isfinite(slope).all(1, keepdim=True), slope, 0.0)
            self._rows[1].add(users)
            self.tables.learn(self._rows[0].take(), self._rows[1].take(), 1.0)
        return Learned(float(total.detach()), _weight(groups))

    def _finish(self, encode: Encode) -> None:
        """The end of a round: charge it, unless exactly this was released before; then move."""
        self.rounds += 1
        total = self.total(encode)
        deviation = self.privacy.noise * self.privacy.clip
        digest = total.digest(self.secret, deviation)
        if not self.ledger.knows(self.rounds, digest):
            if self._full:
                return
            # On the disk before the noise is used: a round may be paid and not made, but never made and not paid.
            self.ledger.write(Entry(self.rounds, digest, self.privacy.charged))
            self._count()
        total.add_noise(noise_source(self.secret, self.rounds, digest), deviation)
        self._take(total)

    def _take(self, total: RoundSum | SelectedSum) -> None:
        """Move dense weights, and all rows of items or those that survived, by the noisy mean."""
        size = self.privacy.shoppers
        self._dense.gradient.copy_(torch.from_numpy(total.dense / size))
        for part in self.parts:
            part.gradient(self._dense, size)
        share = self._dense.step(1.0, size)
        self._items.learn(total.slots, (total.rows / size).astype(np.float32), share)
        for part in self.parts:
            part.stepped(self._dense)

    def _count(self) -> None:
        """What has been spent, and whether another round is within the budget."""
        p, spent = self.privacy, self.ledger.spent
        self.epsilon = accountant.epsilon(spent, p.delta)
        before, after = self._full, accountant.epsilon(accountant.with_one_more(spent, p.charged), p.delta)
        self._full = after > p.epsilon
        if self._full and not before:
            log.warning("privacy budget used up: weights and item rows stay", extra={"epsilon": self.epsilon})


def _weight(groups: Sequence[Group]) -> float:
    return float(sum(group.negatives.sum() for group in groups))
