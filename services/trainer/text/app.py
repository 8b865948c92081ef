"""The text worker put together: `python -m services.trainer text`."""

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import torch

from services.common import health as probes
from services.common.clock import Clock, WallClock
from services.common.errors import InvalidInput
from services.common.health import Health
from services.common.metrics import Metrics
from services.common.topics import EXAMPLES
from services.trainer.arm import ArmPaths, Source
from services.trainer.factory import device_of
from services.trainer.hooks import Hooks, NoHooks
from services.trainer.kafka import KafkaSource
from services.trainer.lock import alone
from services.trainer.settings import TrainerSettings
from services.trainer.text.catalogue import Texts
from services.trainer.text.kafka import TextsReader
from services.trainer.text.load import load
from services.trainer.text.loop import Observer, TextLoop, When
from services.trainer.text.meters import TextMeters
from services.trainer.text.model import Text
from services.trainer.text.tuner import Learning, Tuner

STALL_S = 900.0
"""Judging and exporting a large encoder takes minutes on one core, in which no position moves."""


def folder_of(store: Path) -> Path:
    """Where its checkpoints and its lock lie."""
    return store / "encoders" / "training"


def serve(settings: TrainerSettings) -> None:
    """Learn until SIGTERM or SIGINT. Raises InvalidInput without a model, TemporaryError without Kafka."""
    if not settings.text_model:
        raise InvalidInput("FRESHRANK_TRAINER_TEXT_MODEL", "missing", "names no encoder to begin from")
    torch.set_num_threads(settings.threads)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    metrics, health, texts = Metrics("trainer"), Health(stall_seconds=STALL_S), Texts()
    with ExitStack() as undo:
        undo.enter_context(alone(folder_of(settings.store)))
        undo.callback(probes.serve(health, metrics.registry, settings.http_port, settings.http_host).shutdown)
        catalogue = TextsReader(settings.kafka, texts)
        undo.callback(catalogue.close)
        source = KafkaSource(
            settings.kafka, settings.poll_messages, settings.gather_ms / 1000, heads=tuple(settings.loss_weights)
        )
        undo.callback(source.close)
        loop = build(settings, source, texts, catalogue.follow, TextMeters(metrics), WallClock())
        _watch(metrics, health, loop, texts)
        run(loop, source, health, stop)


def build(
    settings: TrainerSettings,
    source: Source,
    texts: Texts,
    follow: Callable[[], None],
    observer: Observer,
    clock: Clock,
    hooks: Hooks | None = None,
) -> TextLoop:
    """Restore the encoder and wire the loop."""
    points = hooks or NoHooks()

    def model() -> Text:
        text = load(settings.text_model, settings.text_max_tokens)
        text.model.to(device_of(settings))
        return text

    learning = Learning(
        settings.text_way,
        settings.text_pairs,
        settings.text_batch,
        settings.text_negatives,
        settings.text_judged,
        settings.seed,
        settings.text_category_searches,
    )
    tuner = Tuner(folder_of(settings.store), model, texts, learning, points, clock.now_us())
    when = When(
        settings.text_pairs,
        min(settings.text_batch, settings.text_pairs),
        int(settings.text_interval * 1e6),
        settings.poll_ms / 1000,
        settings.text_int8,
    )
    controls = ArmPaths(settings.store, settings.arm).root / "control.json"
    return TextLoop(tuner, source, follow, settings.store, controls, when, clock, observer, points)


def run(loop: TextLoop, source: KafkaSource, health: Health, stop: Event) -> None:
    """Turn until told to stop; on the way out save what was read."""
    _report(loop, source, health)
    health.ready = True
    while not stop.is_set():
        loop.turn()
        _report(loop, source, health)
        if loop.frozen:
            stop.wait(0.1)
    loop.close()


def _report(loop: TextLoop, source: KafkaSource, health: Health) -> None:
    for partition in source.partitions:
        health.applied(EXAMPLES.name, partition, loop.tuner.progress.positions.get(partition, 0))
    # Who learns a slice reads nothing: else minutes of learning would look like a stalled consumer.
    health.lag = 0 if loop.frozen or loop.tuner.busy else source.lag()


def _watch(metrics: Metrics, health: Health, loop: TextLoop, texts: Texts) -> None:
    tuner = loop.tuner

    def positions() -> Mapping[str, Any]:
        now = tuner.progress
        return {"pairs_learned": now.learned, "slices": now.slices, "pairs_waiting": tuner.waiting}

    health.extra = positions
    lag = metrics.gauge("text_lag_messages", "Messages of examples not looked at yet; 0 in a slice and while frozen")
    lag.set_function(lambda: health.lag)
    waiting = metrics.gauge("text_waiting_pairs", "Pairs that wait to be learned")
    waiting.set_function(lambda: tuner.waiting)
    metrics.gauge("text_items", "Items whose text is known").set_function(lambda: len(texts))
    untold = metrics.gauge("text_untold_searches", "Searches given up because no chosen item had a text")
    untold.set_function(lambda: tuner.progress.untold)
