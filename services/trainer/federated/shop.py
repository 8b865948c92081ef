"""A client of a federation: a shop, or a region, with an archive of its own.

Its learner lies in checkpoints of an arm, one a round, so that a process may come and go with each message. A round
that is asked for again begins where it began before.
"""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from services.common.errors import InvalidInput
from services.common.spec import ModelSpec
from services.trainer.archive import ArchiveSource
from services.trainer.arm import ArmPaths, same_model, same_shape
from services.trainer.checkpoint import Checkpoints, Name
from services.trainer.factory import learner_of
from services.trainer.federated import exchange
from services.trainer.federated.model import Answer, Asked, Shown
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.learner import Blocks, Learner, Watcher
from services.trainer.lock import alone
from services.trainer.models.registry import UNNAMED
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.online import OnlineStrategy

BATCH = 20
"""Messages in a batch at most: a step never holds examples of two batches."""


@dataclass(frozen=True)
class Place:
    """Where a shop's things are."""

    name: str
    examples: Path
    """Archive: <store>/arms/<arm>/examples."""
    settings: TrainerSettings
    """How it learns; `store` and `arm` say where its checkpoints lie. The arm is no trainer's."""
    messages: int = 0
    """After which a round ends, in whole batches; 0 = what the coordinator asks for."""


class Shop:
    """Learns its next examples from the model it is sent, and answers with its own."""

    def __init__(self, place: Place, hooks: Hooks | None = None, watcher: Watcher | None = None) -> None:
        """`watcher` judges what is learned. Raises InvalidInput for what no shop of a federation can be."""
        if not place.examples.is_dir():
            raise InvalidInput("examples", "missing", f"{place.examples} is no folder")
        no_privacy(place.settings)
        self.name, self._place, self._watcher = place.name, place, watcher
        self._root = ArmPaths(place.settings.store, place.settings.arm).root
        keep = max(2, place.settings.checkpoints)  # of the round before too: this one may be asked for again
        self._checkpoints = Checkpoints(self._root / "checkpoints", hooks or NoHooks(), keep)

    def show(self) -> Shown:
        """Who it is."""
        spec = spec_of(ArchiveSource(self._place.examples), self._place.settings)
        weights = exchange.weights_of(online_of(self._made(spec, None)))
        return Shown(self.name, spec.to_json(), {name: value.shape for name, value in weights.items()})

    def learn(self, asked: Asked) -> Answer:
        """Learn what is new, until so many messages are; a round is a release to the parts of the strategy.

        Raises InvalidInput when its examples or settings are not those of its checkpoints, TemporaryError when another
        process has the arm, CorruptState for broken files.
        """
        with alone(self._root):
            torch.set_num_threads(self._place.settings.threads)
            messages = min(asked.messages, self._place.messages or asked.messages)
            source = ArchiveSource(self._place.examples, batch_of(messages))
            learner = self._before(asked, spec_of(source, self._place.settings))
            strategy = online_of(learner)
            touched = exchange.Touched(learner.tables.item)
            strategy.parts = (*strategy.parts, touched)
            exchange.put_weights(strategy, asked.weights)
            exchange.put_rows(learner.tables, asked.items, learner.log_us - learner.config.expiry_us)
            strategy.received()
            before = learner.learned
            self._learn(learner, source, messages)
            self._checkpoints.save(Name(1, asked.round), learner, [], {"epoch": 1, "delta_seq": 0})
            self._checkpoints.prune(())
            return Answer(
                shop=self.name,
                examples=learner.learned - before,
                log_us=learner.log_us,
                weights=exchange.weights_of(strategy),
                items=exchange.rows_of(learner.tables.item, *touched.take()),
                figures={name: value for name, value in learner.progress.metrics().items() if value == value},
            )

    def _learn(self, learner: Learner, source: ArchiveSource, messages: int) -> None:
        source.seek(learner.positions)
        left = messages
        while left > 0 and (batch := source.poll()) is not None:
            learner.apply(batch)
            left -= sum(end - start for start, end in batch.ranges.values())
        if left < messages:
            learner.released()

    def _before(self, asked: Asked, spec: ModelSpec) -> Learner:
        """The learner as it was before the round; what it has of this round or of later ones goes."""
        last = asked.round - 1 if asked.messages else asked.round
        for name in self._checkpoints.names():
            if name.seq > last:
                shutil.rmtree(self._checkpoints.path(name))
        saved = self._checkpoints.newest()
        if saved is None:
            learner = self._made(spec, None)
        else:
            before = ModelSpec.from_json(saved.meta["spec"])
            same_shape(spec, before)
            same_model(self._place.settings.model, saved.meta.get("model", UNNAMED), saved.name)
            if before != spec:
                raise InvalidInput("examples", "changed", "they have other features than the rounds before")
            learner = self._made(spec, saved.meta["blocks"])
            learner.restore(saved.meta, saved.files, saved.rows)
        learner.watcher = self._watcher
        return learner

    def _made(self, spec: ModelSpec, blocks: Blocks | None) -> Learner:
        return learner_of(self._place.settings, spec, blocks)


def batch_of(messages: int) -> int:
    """Messages in a batch of a round of so many: as even as can be, for a round ends with a whole one.

    >>> batch_of(2_000), batch_of(25), batch_of(8), batch_of(0)
    (20, 13, 8, 1)
    """
    return math.ceil(messages / math.ceil(messages / BATCH)) if messages else 1


def spec_of(source: ArchiveSource, settings: TrainerSettings) -> ModelSpec:
    """The features of an archive, with row length and heads as set."""
    return replace(source.spec, row_dim=settings.row_dim, heads=tuple(settings.loss_weights))


def online_of(learner: Learner) -> OnlineStrategy:
    """Its strategy, by its class."""
    assert isinstance(learner.strategy, OnlineStrategy)
    return learner.strategy


def no_privacy(settings: TrainerSettings) -> None:
    """Raises InvalidInput for private learning: the counts that rows are weighed by have no noise on them."""
    if settings.privacy:
        detail = "how often a row was touched leaves a shop, and no noise is on that"
        raise InvalidInput("privacy", "federated", detail)
