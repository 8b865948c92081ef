"""Strategies and losses as one line of text: `replay(2000, 0.5), ewc(100)` and `focal(2), smoothed(0.1)`."""

from collections.abc import Mapping
from functools import partial

from services.trainer import calls
from services.trainer.calls import Number, Way, Word
from services.trainer.strategies.adapters import AdaptiveRank, ChosenLayers, LowRank, Thaw
from services.trainer.strategies.adaptive import DriftStep, Hypergradient
from services.trainer.strategies.anchors import ChosenFusion, ElasticWeights, Fusion, Proximal
from services.trainer.strategies.augmentation import Augmentation
from services.trainer.strategies.distillation import Distillation
from services.trainer.strategies.epochs import Epochs
from services.trainer.strategies.lightgcn import LightGCN
from services.trainer.strategies.losses import (
    CrossEntropy,
    Focal,
    PointLoss,
    Reweighted,
    Smoothed,
    Truncated,
    Weighted,
)
from services.trainer.strategies.oversampling import RareItems, RareLabels
from services.trainer.strategies.parts import Part
from services.trainer.strategies.ranks import Listwise, Pairwise
from services.trainer.strategies.regularisers import AdversarialRows, CoClicks, PseudoLabels
from services.trainer.strategies.replay import Replay
from services.trainer.strategies.virtual import VirtualClicks

_REPEATS = (Number("most", 1, 100, 8), Word("weights", ("kept", "divided"), "kept"))

PARTS: Mapping[str, Way] = {
    "replay": Way(Replay, (Number("kept", 1, 1e6, 2000), Number("share", 0.01, 0.95, 0.5))),
    "distillation": Way(Distillation, (Number("share", 0, 1, 0.3), Number("temperature", 0.1, 20, 2))),
    "ewc": Way(ElasticWeights, (Number("strength", 0, 1e9, 100), Number("fade", 0, 1, 0.9))),
    "proximal": Way(Proximal, (Number("mu", 0, 1e6, 0.01),)),
    "fusion": Way(Fusion, (Number("share", 0, 1, 0.7),)),
    "fusion_chosen": Way(ChosenFusion),
    "epochs": Way(
        Epochs, (Number("epochs", 1, 1000, 3), Number("patience", 1, 1000, 4), Number("kept", 1, 1e7, 20_000))
    ),
    "augmentation": Way(
        Augmentation, (Word("change", ("crop", "mask", "reorder"), "mask"), Number("share", 0.01, 1, 0.5))
    ),
    "thaw": Way(Thaw, (Number("impressions", 1, 1e9, 1000),)),
    "layers": Way(ChosenLayers, (Word("which", ("top", "biases"), "top"),)),
    "lora": Way(LowRank, (Number("rank", 1, 256, 4), Number("alpha", 0.01, 1e4, 8), Number("rate", 1e-6, 1, 0.003))),
    "adalora": Way(
        AdaptiveRank, (Number("rank", 1, 256, 8), Number("budget", 0.01, 1, 0.5), Number("rate", 1e-6, 1, 0.003))
    ),
    "hypergradient": Way(Hypergradient, (Number("pace", 0, 1, 0.02), Number("most", 1, 1e3, 10))),
    "drift_step": Way(DriftStep, (Number("times", 1, 100, 4), Number("impressions", 1, 1e7, 500))),
    "adversarial": Way(AdversarialRows, (Number("radius", 0, 10, 0.1), Number("share", 0, 10, 0.5))),
    "pairwise": Way(Pairwise, (Number("share", 0, 100, 0.3),)),
    "listwise": Way(Listwise, (Number("share", 0, 100, 0.3),)),
    "co_clicks": Way(CoClicks, (Number("strength", 0, 10, 0.01),)),
    "rare_items": Way(RareItems, (Number("threshold", 1e-6, 1, 0.001), *_REPEATS)),
    "rare_labels": Way(RareLabels, (Number("threshold", 1e-6, 1000, 0.1), *_REPEATS)),
    "virtual_clicks": Way(VirtualClicks, (Number("impressions", 1, 200, 50), Number("clicks", 0.001, 10, 1))),
    "lightgcn": Way(
        LightGCN, (Number("layers", 1, 2, 1), Number("items", 1, 256, 16), Number("shoppers", 1, 1024, 64))
    ),
    "pseudo_labels": Way(PseudoLabels, (Number("most", 0, 0.5, 0.02), Number("share", 0, 1, 0.5))),
}

LOSSES: Mapping[str, Way] = {
    "cross_entropy": Way(lambda: lambda base: base),
    "focal": Way(lambda gamma: partial(Focal, gamma), (Number("gamma", 0, 10, 2),)),
    "smoothed": Way(lambda share: partial(Smoothed, share), (Number("share", 0, 1, 0.1),)),
    "weighted": Way(lambda weight: partial(Weighted, weight), (Number("weight", 0.01, 100, 2),)),
    "reweighted": Way(lambda beta: partial(Reweighted, beta), (Number("beta", 0, 10, 0.2),)),
    "truncated": Way(lambda least: partial(Truncated, least), (Number("least", 0, 1, 0.01),)),
}


def parts(text: str) -> list[Part]:
    """The parts that a line names, in order. Raises ValueError, with a sentence, for what is none."""
    if not text.strip():
        return []
    made: list[Part] = [calls.made(node, PARTS) for node in calls.nodes(text, "replay(2000, 0.5), ewc(100)")]
    names = [part.name for part in made]
    if len(set(names)) < len(names):
        raise ValueError(f"{text!r} names a part twice")
    return made


def loss(text: str) -> PointLoss:
    """The loss that a line names; each call changes the one before it. Raises ValueError, with a sentence."""
    out: PointLoss = CrossEntropy()
    if text.strip():
        for node in calls.nodes(text, "focal(2), smoothed(0.1)"):
            out = calls.made(node, LOSSES)(out)
    return out
