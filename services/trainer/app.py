"""The trainer put together."""

import json
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from threading import Event
from typing import Any

import torch

from services.common import health as probes
from services.common.clock import Clock, WallClock
from services.common.errors import InvalidInput
from services.common.health import Health
from services.common.keytable import writing
from services.common.metrics import Metrics
from services.common.spec import ModelSpec
from services.common.topics import EXAMPLES
from services.common.tracing import tracing_for
from services.online.registry import PlanSource
from services.trainer import maintenance, tracking
from services.trainer.archive_writer import DAY_S, Archive
from services.trainer.arm import Arm, ArmPaths
from services.trainer.checkpoint import Checkpoints, Name
from services.trainer.factory import hold_of, learner_of, trigger_of
from services.trainer.files import write_file
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.kafka import KafkaSource
from services.trainer.learner import Learner
from services.trainer.lock import alone
from services.trainer.loop import Loop, LoopConfig
from services.trainer.meters import Meters
from services.trainer.observe import All, Logged, Observer, Traced
from services.trainer.privacy import config as privacy
from services.trainer.settings import TrainerSettings
from services.trainer.tensorboard import TensorBoard
from services.trainer.tracking import Background, Tracked
from services.trainer.transfer import take_over

log = logging.getLogger(__name__)


class Trainer:
    """One arm's worker: `run` learns until it is told to stop."""

    def __init__(self, loop: Loop, source: KafkaSource, health: Health) -> None:
        self._loop, self._source, self._health = loop, source, health
        health.extra = self._positions

    def run(self, stop: Event) -> None:
        """Learn; on the way out save what was learned. Raises TemporaryError when Kafka fails."""
        self._report()
        self._health.ready = True
        while not stop.is_set():
            self._loop.turn()
            self._report()
            if self._loop.frozen:
                stop.wait(0.1)
        self._loop.arm.close()

    def _report(self) -> None:
        positions = self._loop.arm.learner.positions
        for partition in self._source.partitions:
            self._health.applied(EXAMPLES.name, partition, positions.get(partition, 0))
        # Who may not learn is not behind: else a freeze would look like a stalled consumer.
        self._health.lag = 0 if self._loop.frozen else self._source.lag()

    def _positions(self) -> Mapping[str, Any]:
        arm = self._loop.arm
        return {
            "delta_seq": arm.delta_seq,
            "epoch": arm.epoch,
            "release_seq": arm.name.seq,
            "examples_learned": arm.learner.learned,
        }


def start(settings: TrainerSettings, arguments: Sequence[str]) -> None:
    """Be what the arguments say: nothing, the ranker's trainer; `text`, the text encoder's. Raises as they do."""
    if list(arguments) not in ([], ["text"]):
        raise InvalidInput("arguments", "unknown", f"{' '.join(arguments)} is neither nothing nor text")
    if arguments:
        from services.trainer.text.app import serve as serve_text  # the ranker needs no Transformer

        serve_text(settings)
    else:
        serve(settings)


def serve(settings: TrainerSettings) -> None:
    """Learn until SIGTERM or SIGINT. Raises TemporaryError when Kafka, the registry or the arm is not to be had."""
    torch.set_num_threads(settings.threads)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics, health, clock = Metrics("trainer"), Health(), WallClock()
    paths = ArmPaths(settings.store, settings.arm)
    with ExitStack() as undo:
        undo.enter_context(alone(paths.root))
        server = probes.serve(health, metrics.registry, settings.http_port, settings.http_host)
        undo.callback(server.shutdown)
        source = KafkaSource(
            settings.kafka, settings.poll_messages, settings.gather_ms / 1000, heads=tuple(settings.loss_weights)
        )
        undo.callback(source.close)
        board = TensorBoard(settings.tensorboard or paths.root / "tensorboard")
        undo.callback(board.close)
        traces = tracing_for("trainer", settings.otlp_endpoint)
        undo.callback(traces.close)
        metrics.gauge("lag_messages", "Messages not learned from yet; 0 while frozen").set_function(lambda: health.lag)
        private = privacy.parse(settings.privacy)
        watched = All([Meters(metrics, clock, private.epsilon if private else 0.0), Logged(log)])
        followed = [
            Tracked(Background(tracker, settings.arm, settings.about, paths.root, partial(watched.failed, "tracker")))
            for tracker in tracking.parse(settings.trackers)
        ]
        for each in followed:
            undo.callback(each.close)
        observer = All([watched, Traced(traces, clock), board, *followed])
        wanted = features_of(settings, PlanSource(settings.feature_repo))
        build(settings, source, health, wanted, observer, clock).run(stop)


def build(
    settings: TrainerSettings,
    source: KafkaSource,
    health: Health,
    wanted: Callable[[], ModelSpec],
    observer: Observer,
    clock: Clock,
    hooks: Hooks | None = None,
) -> Trainer:
    """Restore the arm and wire the loop."""
    points = hooks or NoHooks()
    paths = ArmPaths(settings.store, settings.arm)
    archive = _archive(settings, paths, clock, points) if settings.archive else None
    arm = Arm(
        paths,
        source,
        lambda spec, b: learner_of(settings, spec, b),
        wanted,
        points,
        settings.checkpoints,
        archive,
        lambda learner: begin(settings, learner),
    )
    write_file(paths.way, json.dumps(settings.way(), indent=1).encode(), NoHooks(), "way")
    config = LoopConfig(
        push_interval_us=int(settings.push_interval * 1e6),
        poll_s=settings.poll_ms / 1000,
        objective=tuple(settings.objective.items()),
        log_clock=settings.clock == "log",
    )
    policy = maintenance.parse(settings.maintenance)
    hold = hold_of(settings)
    loop = Loop(arm, source, config, wanted, trigger_of(settings), clock, observer, points, hold, policy)
    return Trainer(loop, source, health)


def _archive(settings: TrainerSettings, paths: ArmPaths, clock: Clock, hooks: Hooks) -> Archive:
    keys = writing(paths.store, paths.examples, settings.seal)
    return Archive(paths.examples, settings.archive_days * DAY_S, clock, keys, hooks)


def begin(settings: TrainerSettings, learner: Learner) -> None:
    """Give the learner of a new arm what the settings say it begins with. Raises InvalidInput."""
    folder = settings.transfer_from
    if folder is None:
        return
    name = Name.parse(folder.name)
    if name is None or not folder.is_dir():
        raise InvalidInput("transfer_from", "missing", f"{folder} is no checkpoint: .../checkpoints/<lineage>-<seq>")
    taken = take_over(learner, Checkpoints(folder.parent, NoHooks()).load(name), settings.transfer_users)
    log.info("began with another arm's weights and rows", extra=asdict(taken))


def features_of(settings: TrainerSettings, plans: PlanSource) -> Callable[[], ModelSpec]:
    """Reads what the FeatureService `ranking` holds now. Calling it raises InvalidInput or TemporaryError."""

    def wanted() -> ModelSpec:
        ranking = plans.load().ranking
        return ModelSpec(
            user_features=ranking.user,
            item_features=ranking.item,
            heads=tuple(settings.loss_weights),
            row_dim=settings.row_dim,
            feature_service=ranking.feature_service,
        )

    return wanted
