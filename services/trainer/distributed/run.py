"""An archive of examples learned by several processes, into the checkpoints of an arm.

Every process reads the archive and cuts it into the same steps; the first one alone writes. Checkpoints are as those
of one process: any number of processes goes on from them, and so does the trainer that learns from the topic.
"""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.common.clock import Clock
from services.common.errors import InvalidInput
from services.common.spec import ModelSpec
from services.trainer import journal
from services.trainer.archive import ArchiveSource
from services.trainer.arm import ArmPaths, checkpoints_of, same_model, same_shape
from services.trainer.checkpoint import Checkpoints, Name, Saved
from services.trainer.deltas import DeltaFiles
from services.trainer.distributed.learner import DistributedLearner
from services.trainer.distributed.peers import Peers
from services.trainer.distributed.strategy import DistributedStrategy
from services.trainer.factory import config_of, device_of, online
from services.trainer.groups import Tables
from services.trainer.hooks import Hooks
from services.trainer.learner import Blocks
from services.trainer.models.registry import UNNAMED
from services.trainer.settings import TrainerSettings
from services.trainer.strategies.online import OnlineStrategy


@dataclass(frozen=True)
class Options:
    """What is learned, and how the processes work together."""

    examples: Path
    """Archive of a trainer: `<store>/arms/<arm>/examples`."""
    staleness: int = 0
    """Steps whose gradients a row may lack when it is read; 0 = synchronous."""
    batch: int = 500
    """Messages in a batch. A step never holds examples of two batches, so another size makes other steps."""
    save_every: int = 100_000
    """Messages between checkpoints; there is one at the end in any case."""


@dataclass(frozen=True)
class Outcome:
    """What was done since the start."""

    processes: int
    staleness: int
    oldest: int
    """Steps that the oldest row read lacked."""
    examples: int
    seconds: float
    """Of learning, without writing checkpoints."""
    processor_seconds: float
    """The same, of the first process's processor time: what of it waits for others is not in it."""
    checkpoint: str
    figures: dict[str, float]
    """Progressive validation over the last `window` impressions."""

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        rate = self.examples / self.seconds if self.seconds else 0.0
        return asdict(self) | {"examples_per_second": rate}


class Archived:
    """The checkpoints that processes write together."""

    def __init__(self, paths: ArmPaths, peers: Peers, hooks: Hooks, keep: int) -> None:
        self._peers, self._paths = peers, paths
        if peers.rank:
            peers.wait()  # the first one alone clears away what a killed process left
        self._checkpoints = Checkpoints(paths.root / "checkpoints", hooks, keep)
        if not peers.rank:
            peers.wait()
        self._deltas = DeltaFiles(paths.root / "deltas", hooks)
        self._name, self._extra = Name(1, 0), {"epoch": 1, "delta_seq": 0}

    @property
    def name(self) -> Name:
        """Of the newest one."""
        return self._name

    def newest(self) -> Saved | None:
        """Where the arm is; None when it is new. Raises CorruptState when none of its checkpoints is whole."""
        saved = self._checkpoints.newest()
        if saved is not None:
            written = [record.delta_seq for record in journal.read(self._checkpoints.journals(saved.name))]
            epoch = saved.meta["epoch"]
            # A sequence of deltas never comes twice, not even one that only the journal still knows.
            newest = max([saved.meta["delta_seq"], self._deltas.newest(epoch), *written])
            self._extra = {"epoch": epoch, "delta_seq": newest}
            self._name = self._checkpoints.names()[-1]
        self._peers.wait()  # nobody writes before all have looked
        return saved

    def save(self, learner: DistributedLearner) -> None:
        """Write a checkpoint with the rows of all; returns when it is there.

        What it changed has not been pushed to the feature store: the trainer that goes on from it pushes every row.
        """
        learner.gather()
        self._name = replace(self._name, seq=self._name.seq + 1)
        if not self._peers.rank:
            self._checkpoints.save(self._name, learner, [], self._extra | {"rows_unpushed": True})
            self._checkpoints.prune(checkpoints_of(self._paths.releases))
        self._peers.wait()


def learn(
    settings: TrainerSettings, options: Options, peers: Peers, clock: Clock, hooks: Hooks, report: Callable[[int], None]
) -> Outcome:
    """Learn the rest of the archive; `report` is told of the messages of each batch.

    Raises InvalidInput for settings that the arm or several processes cannot have, CorruptState for broken files.
    """
    torch.set_num_threads(settings.threads)
    source = ArchiveSource(options.examples, options.batch)
    archived = Archived(ArmPaths(settings.store, settings.arm), peers, hooks, settings.checkpoints)
    learner = _opened(settings, options, source, archived, peers)
    source.seek(learner.positions)
    before, waiting, learning_us, processor = learner.learned, 0, 0, 0.0
    while (batch := source.poll()) is not None:
        began, began_processor = clock.now_us(), time.process_time()
        learner.apply(batch)
        learning_us += clock.now_us() - began
        processor += time.process_time() - began_processor
        messages = sum(end - start for start, end in batch.ranges.values())
        waiting += messages
        report(messages)
        if waiting >= options.save_every:
            archived.save(learner)
            waiting = 0
    if waiting or not archived.name.seq:
        archived.save(learner)
    return Outcome(
        processes=peers.count,
        staleness=options.staleness,
        oldest=learner.oldest,
        examples=learner.learned - before,
        seconds=learning_us / 1e6,
        processor_seconds=processor,
        checkpoint=str(archived.name),
        figures=learner.progress.metrics(),
    )


def learner_of(
    settings: TrainerSettings, spec: ModelSpec, blocks: Blocks | None, peers: Peers, staleness: int
) -> DistributedLearner:
    """An empty learner; equal settings give equal first weights, however many processes there are."""
    if staleness < 0:
        raise InvalidInput("staleness", "negative", "the bound counts steps, from 0")
    if settings.privacy:
        raise InvalidInput("privacy", "one_process", "rounds of shoppers are counted by one process")

    def strategy(spec: ModelSpec, tables: Tables, blocks: Blocks | None) -> OnlineStrategy:
        return online(settings, spec, tables, blocks, partial(DistributedStrategy, peers))

    return DistributedLearner(spec, config_of(settings), strategy, blocks, peers, staleness)


def device_of_process(settings: TrainerSettings) -> torch.device:
    """The GPU of this process, when GPUs are what is set; `torchrun` says which in LOCAL_RANK."""
    device = device_of(settings)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return device


def _opened(
    settings: TrainerSettings, options: Options, source: ArchiveSource, archived: Archived, peers: Peers
) -> DistributedLearner:
    wanted = replace(source.spec, row_dim=settings.row_dim, heads=tuple(settings.loss_weights))
    saved = archived.newest()
    if saved is None:
        return learner_of(settings, wanted, None, peers, options.staleness)
    spec = ModelSpec.from_json(saved.meta["spec"])
    same_shape(wanted, spec)
    same_model(settings.model, saved.meta.get("model", UNNAMED), saved.name)
    learner = learner_of(settings, spec, saved.meta["blocks"], peers, options.staleness)
    learner.restore(saved.meta, saved.files, saved.rows)
    return learner
