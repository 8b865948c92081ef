"""The middle of a federation: the model of all, a checkpoint of it after each whole round.

The checkpoint is one that an arm can begin with (`transfer_from`); it holds no shopper, and no statistics of features.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.common.errors import InvalidInput
from services.common.spec import ModelSpec
from services.trainer.arm import ArmPaths, same_model
from services.trainer.checkpoint import Checkpoints, Name
from services.trainer.factory import learner_of
from services.trainer.federated import exchange
from services.trainer.federated.model import Answer, Asked, Rows, Shown, Weights, averaged, merged
from services.trainer.federated.shop import no_privacy, online_of
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.learner import Learner
from services.trainer.models.registry import UNNAMED
from services.trainer.settings import TrainerSettings

MOST_RATE = 100.0


class Coordinator:
    """What the server of a federation knows; goes on after the last whole round."""

    def __init__(self, settings: TrainerSettings, hooks: Hooks | None = None, rate: float = 1.0) -> None:
        """Its checkpoints are those of the arm that the settings name. Raises InvalidInput, CorruptState.

        `rate`: the model goes so many times the way to the mean of the answers; 1 = federated averaging.
        """
        no_privacy(settings)
        if not 0 < rate <= MOST_RATE:
            raise InvalidInput("rate", "out_of_range", f"must be above 0, up to {MOST_RATE:g}")
        self._settings, self._rate = settings, rate
        folder = ArmPaths(settings.store, settings.arm).root / "checkpoints"
        self._checkpoints = Checkpoints(folder, hooks or NoHooks(), settings.checkpoints)
        self.round = 0
        """The last whole one."""
        self._learner: Learner | None = None
        saved = self._checkpoints.newest()
        if saved is not None:
            same_model(settings.model, saved.meta.get("model", UNNAMED), saved.name)
            self._learner = learner_of(settings, ModelSpec.from_json(saved.meta["spec"]), saved.meta["blocks"])
            self._learner.restore(saved.meta, saved.files, saved.rows)
            self.round = saved.name.seq

    @property
    def learner(self) -> Learner:
        """The model of all; there is one once a shop was let in."""
        assert self._learner is not None
        return self._learner

    @property
    def checkpoint(self) -> str:
        """Folder of the newest checkpoint; empty before the first round."""
        return str(self._checkpoints.path(Name(1, self.round))) if self.round else ""

    def refused(self, shown: Shown) -> str:
        """Why a shop cannot take part; empty when it can. The first one's features are those of all."""
        spec = ModelSpec.from_json(shown.spec)
        if self._learner is None:
            self._learner = learner_of(self._settings, spec, None)
        if self._learner.spec != spec:
            return "its features, row length or heads are others"
        ours = {name: value.shape for name, value in self.weights.items()}
        return "" if ours == shown.shapes else "its model or the sizes of it are others"

    @property
    def weights(self) -> Weights:
        """Dense weights of all."""
        return exchange.weights_of(online_of(self.learner))

    @property
    def items(self) -> Rows:
        """Rows of all items."""
        table = self.learner.tables.item
        return exchange.rows_of(table, np.flatnonzero(table.live[: table.next]))

    def asked(self, messages: int) -> Asked:
        """What the next round asks of a shop; without messages, to take over what the last one gave."""
        return Asked(self.round + 1 if messages else self.round, messages, self.weights, self.items)

    def take(self, answers: Sequence[Answer]) -> None:
        """End a round with the answers that came. Raises InvalidInput when there is none, or weights are not finite."""
        if not answers:
            raise InvalidInput("answers", "none", "a round needs one at least")
        answers = sorted(answers, key=lambda answer: answer.shop)
        self.advance(
            averaged(self.weights, answers),
            merged([answer.items for answer in answers]),
            sum(answer.examples for answer in answers),
            max(answer.log_us for answer in answers),
        )

    def advance(self, weights: Weights, items: Rows, examples: int, log_us: int) -> None:
        """End a round with these means of weights and rows, learned from so many examples."""
        learner = self.learner
        weights, items = self._stepped(weights, items)
        if not all(np.isfinite(value).all() for value in (*weights.values(), items.rows, items.squares)):
            raise InvalidInput("weights", "not_finite", "what the shops answered has no mean")
        exchange.put_weights(online_of(learner), weights)
        exchange.put_rows(learner.tables, items, 0)
        learner.learned += examples
        learner.log_us = max(learner.log_us, log_us)
        learner.tables.item.expire(learner.log_us - learner.config.expiry_us)
        self.round += 1
        self._checkpoints.save(Name(1, self.round), learner, [], {"epoch": 1, "delta_seq": 0, "rows_unpushed": True})
        self._checkpoints.prune(())

    def _stepped(self, weights: Weights, items: Rows) -> tuple[Weights, Rows]:
        """The server's step along what the shops have moved (Reddi et al., 2021, by plain SGD); means as they are at 1.

        Rows that nobody had are taken as they are, and none gets longer than rows may be.
        """
        if self._rate == 1:
            return weights, items
        step, table = np.float32(self._rate), self.learner.tables.item
        moved = {name: before + step * (weights[name] - before) for name, before in self.weights.items()}
        before, known = table.lookup(items.ids)
        rows = np.where(known[:, None] > 0, before + step * (items.rows - before), items.rows)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows *= np.minimum(1, table.config.max_norm / np.maximum(length, 1e-12))
        return moved, replace(items, rows=rows.astype(np.float32))
