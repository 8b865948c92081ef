"""From plain settings to the parts of a learner."""

from collections.abc import Callable
from pathlib import Path

import torch

from services.common.errors import InvalidInput
from services.common.spec import ModelSpec
from services.trainer import expression
from services.trainer.arm import ArmPaths
from services.trainer.examples import StepSize
from services.trainer.groups import Tables
from services.trainer.learner import Blocks, Learner, LearnerConfig
from services.trainer.models.base import Sizes
from services.trainer.models.registry import MODELS
from services.trainer.privacy import config as privacy
from services.trainer.privacy import ledger
from services.trainer.privacy.catalogue import read_items
from services.trainer.retrieval import TwoTower
from services.trainer.scale import Scale
from services.trainer.settings import TrainerSettings
from services.trainer.slices import Hold, HoldBounds
from services.trainer.strategies import expression as strategies
from services.trainer.strategies.lightgcn import LightGCN
from services.trainer.strategies.online import OnlineConfig, OnlineStrategy
from services.trainer.strategies.optimisers import DenseConfig
from services.trainer.strategies.private import PrivateStrategy
from services.trainer.strategies.weights import WeightConfig
from services.trainer.tables import RowConfig
from services.trainer.triggers import AtLeast, TimeTrigger, Trigger, VolumeTrigger


def learner_of(settings: TrainerSettings, spec: ModelSpec, blocks: Blocks | None) -> Learner:
    """An empty learner; equal settings give equal first weights.

    Raises InvalidInput when private learning lacks something, cannot be had with another setting, or was left.
    """

    def strategy(spec: ModelSpec, tables: Tables, blocks: Blocks | None) -> OnlineStrategy:
        return online(settings, spec, tables, blocks)

    return Learner(spec, config_of(settings), strategy, blocks)


def config_of(settings: TrainerSettings) -> LearnerConfig:
    """What a learner is made from, beside the list of features."""
    items = tuple(read_items(settings.privacy_items)) if _private(settings) else None
    graphs = [part.config for part in strategies.parts(settings.strategy) if isinstance(part, LightGCN)]
    return LearnerConfig(
        rows=RowConfig(
            dim=settings.row_dim,
            max_rows=settings.max_rows,
            admission=settings.admission,
            rate=settings.row_learning_rate,
            decay=settings.row_decay,
            clip=settings.row_clip_norm,
            max_norm=settings.row_max_norm,
        ),
        weights=WeightConfig(settings.propensity_clip, settings.position_power),
        step=StepSize(settings.batch_impressions, settings.batch_items),
        share=settings.share,
        arm=settings.arm if settings.traffic == "own" else "",
        expiry_us=int(settings.expiry_days * 24 * 3600 * 1e6),
        window=settings.window,
        items=items,
        graph=graphs[0] if graphs else None,
        scale=Scale.of(settings.rating, tuple(settings.loss_weights)),
    )


def online(
    settings: TrainerSettings,
    spec: ModelSpec,
    tables: Tables,
    blocks: Blocks | None,
    make: Callable[..., OnlineStrategy] = OnlineStrategy,
) -> OnlineStrategy:
    """The online strategy, or a kind of it that `make` makes, with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        blocks = blocks or {}
        sizes = Sizes(hidden=settings.hidden, layers=settings.layers)
        ranker = MODELS[settings.model](spec, sizes, blocks.get("user"), blocks.get("item"))
        towers = TwoTower(spec, settings.retrieval_dim)
    scale = Scale.of(settings.rating, spec.heads)
    config = OnlineConfig(
        dense=DenseConfig(
            optimiser=settings.optimiser,
            rate=settings.learning_rate,
            schedule=settings.schedule,
            warmup=settings.warmup_impressions,
            decay=settings.weight_decay,
            clip=settings.clip_norm,
        ),
        heads=tuple(settings.loss_weights.get(head, 0.0) for head in spec.heads),
        under=scale.under(len(spec.heads)) if scale else (),
        loss=strategies.loss(settings.loss),
        labels=settings.labels,
        accumulate=settings.accumulate,
        hold_out=settings.hold_out,
        row_dropout=settings.row_dropout,
        half=settings.precision == "bfloat16",
        seed=settings.seed,
    )
    parts = strategies.parts(settings.strategy)
    ranker = ranker.to(device_of(settings))
    if private := _private(settings):
        book = ledger.Ledger(_ledger(settings))
        return PrivateStrategy(ranker, towers, tables, config, spec.content_dim, parts, private, book)
    return make(ranker, towers, tables, config, spec.content_dim, parts)


def _private(settings: TrainerSettings) -> privacy.PrivacyConfig | None:
    found = privacy.parse(settings.privacy)
    if found is not None:
        names = [part.name for part in strategies.parts(settings.strategy)]
        privacy.check(settings.labels, settings.accumulate, settings.hold_out, names)
    elif _ledger(settings).exists():
        detail = f"the arm {settings.arm} is private, and learning on without it would end that; use another arm"
        raise InvalidInput("privacy", "left", detail)
    return found


def _ledger(settings: TrainerSettings) -> Path:
    return ArmPaths(settings.store, settings.arm).root / ledger.NAME


def device_of(settings: TrainerSettings) -> torch.device:
    """Where the dense part lives."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def hold_of(settings: TrainerSettings) -> Hold:
    """What makes a due release wait."""
    return Hold(HoldBounds(settings.hold_psi, settings.hold_seconds))


def trigger_of(settings: TrainerSettings) -> Trigger:
    """What the setting says; without one by time, and by volume when that is set."""
    if settings.trigger:
        return expression.parse(settings.trigger)
    triggers: list[Trigger] = [TimeTrigger(settings.update_interval)]
    if settings.update_examples:
        triggers.append(VolumeTrigger(settings.update_examples))
    return AtLeast(1, triggers)
