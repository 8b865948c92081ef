"""Why the model scores as it does: integrated gradients, and occlusion beside them."""

import numpy as np
import pytest
import torch

from services.trainer.attribution import attribute
from services.trainer.groups import Group
from services.trainer.learner import Learner
from services.trainer.models.registry import MODELS
from tests.trainer.strategies.shop import finished, learned, learner
from tests.trainer.world import SPEC, Shop


@pytest.fixture(scope="module")
def taught() -> tuple[Learner, Group]:
    """A learner of the shop, where price and rank decide beside taste, and lists to explain."""
    made, shop = learner(), Shop(items=20)
    learned(made, shop, 400)
    return made, made.encode(finished(shop, 30))


def occlusion(made: Learner, group: Group, which: int, place: int) -> dict[str, float]:
    """As the gateway's: the logit less that without one number, for the candidate's numbers."""
    out = {}
    for k, ref in enumerate(SPEC.item_features):
        arrays = {name: torch.from_numpy(array[which : which + 1].copy()) for name, array in group.arrays.items()}
        whole = made.strategy.ranker.logits(arrays)[0, place, 0]
        arrays["item"][0, place, k] = float("nan")
        out[f"{ref.view}:{ref.name}"] = float((whole - made.strategy.ranker.logits(arrays)[0, place, 0]).detach())
    return out


@pytest.mark.parametrize("which", [0, 5, 11])
def test_attributions_sum_up_to_the_score_less_the_baseline(taught: tuple[Learner, Group], which: int) -> None:
    made, group = taught
    parts, whole = attribute(made.strategy.ranker, SPEC, group, which, 2, steps=256)
    assert sum(part.value for part in parts) == pytest.approx(whole, abs=0.05)


def test_they_agree_with_occlusion_on_what_was_planted(taught: tuple[Learner, Group]) -> None:
    """In the shop price and rank move clicks and ctr_1d is noise: both ways must put it last on average."""
    made, group = taught
    sums = {name: np.zeros(2) for name in occlusion(made, group, 0, 0)}
    for which in range(12):
        ours = {part.name: part.value for part in attribute(made.strategy.ranker, SPEC, group, which, 1)[0]}
        for name, theirs in occlusion(made, group, which, 1).items():
            sums[name] += (abs(ours[name]), abs(theirs))
    by_gradients, by_occlusion = (sorted(sums, key=lambda n, k=k: sums[n][k]) for k in (0, 1))
    assert by_gradients[0] == by_occlusion[0] == "item_stats:ctr_1d"
    assert by_gradients == by_occlusion


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_can_be_asked(model: str) -> None:
    made, shop = learner(model=model), Shop()
    learned(made, shop, 20)
    parts, whole = attribute(made.strategy.ranker, SPEC, made.encode(finished(shop, 3)), 1, 0)
    assert np.isfinite(whole)
    assert {part.name for part in parts} >= {
        "user_stats:clicks_1d",
        "cross:rank",
        "user_row",
        "content",
        "row",
        "history",
    }
