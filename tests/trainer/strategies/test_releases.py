"""What a strategy does at a release: fusion, held-out impressions, epochs with early stopping."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from services.common.ids import share_of
from services.trainer.examples import Batch, Example
from services.trainer.groups import Group
from services.trainer.learner import Learner
from services.trainer.strategies.anchors import ChosenFusion
from services.trainer.strategies.base import Learned
from services.trainer.strategies.online import OnlineStrategy
from services.trainer.strategies.parts import Moment
from tests.trainer.strategies.shop import (
    finished,
    learned,
    learner,
    loss_on,
    part,
    served,
    step_of,
    strategy,
    weights,
)
from tests.trainer.world import Shop


@pytest.mark.parametrize(("share", "expected"), [(0.0, "old"), (1.0, "new")])
def test_fusion_at_its_ends_is_the_old_model_or_the_new_bit_for_bit(share: float, expected: str) -> None:
    made, shop = learner(strategy=f"fusion({share})"), Shop()
    learned(made, shop, 20)
    made.released()
    old = served(made)
    learned(made, shop, 20)
    new = served(made)
    made.released()
    assert torch.equal(served(made), {"old": old, "new": new}[expected])
    assert not torch.equal(old, new)


def test_fusion_between_is_the_convex_combination() -> None:
    made, shop = learner(strategy="fusion(0.25)"), Shop()
    learned(made, shop, 20)
    made.released()
    old = served(made)
    learned(made, shop, 20)
    new = served(made)
    made.released()
    torch.testing.assert_close(served(made), old + 0.25 * (new - old))


def test_the_share_of_fusion_is_chosen_by_the_held_out_loss() -> None:
    made, shop = learner(), Shop(items=20)
    learned(made, shop, 200)
    dense = strategy(made)._dense
    good, bad = dense.flat.clone(), torch.randn(dense.flat.shape, generator=torch.Generator().manual_seed(1))
    held, engine = [made.encode(finished(shop, 40))], strategy(made)
    moment = Moment(dense, held, engine._loss_under, made.encode, lambda groups: None, made.tables, 1)
    assert ChosenFusion()._chosen(moment, bad, good) == 1.0
    assert ChosenFusion()._chosen(moment, good, bad) == 0.0
    assert torch.equal(dense.flat, good), "looking changes nothing"


def test_held_out_impressions_are_learned_only_after_the_release() -> None:
    made, shop = learner(hold_out=0.5), Shop(items=20)
    learned(made, shop, 60)
    kept = strategy(made)._held._kept
    assert 15 < len(kept) < 45
    assert all(share_of(example.impression_id, "held-out") < 0.5 for example in kept)
    before = loss_on(made, list(kept))
    examples = list(kept)
    made.released()
    assert loss_on(made, examples) < before
    assert not strategy(made)._held._kept


def test_held_out_impressions_move_nothing_before() -> None:
    one, other = learner(hold_out=0.5), learner(hold_out=0.5)
    messages = Shop().messages(30)
    ids = [step_of([m]).initial[0].impression_id for m in messages]
    others = [m for m, name in zip(messages, ids, strict=True) if share_of(name, "held-out") >= 0.5]
    held = [m for m, name in zip(messages, ids, strict=True) if share_of(name, "held-out") < 0.5]
    before = weights(one)
    one.apply(Batch({0: (0, len(held))}, {0: held}))
    assert torch.equal(weights(one), before)
    other.apply(Batch({0: (0, len(others))}, {0: others}))
    assert not torch.equal(weights(other), before)


def test_between_releases_nothing_is_learned_and_at_one_all_of_it() -> None:
    made, shop = learner(labels="at_release", strategy="epochs(4)"), Shop(items=20)
    before, rows = weights(made), len(made.tables.item)
    learned(made, shop, 150)
    assert torch.equal(weights(made), before)
    assert len(made.tables.item) > rows, "ids are counted as they come"
    made.released()
    made.progress._window.clear()
    learned(made, shop, 150)
    assert made.progress.metrics()["auc"] > 0.7


def test_nothing_would_ever_be_learned_without_epochs() -> None:
    with pytest.raises(ValueError, match="learns nothing without epochs"):
        learner(labels="at_release", strategy="replay(9)")


@pytest.mark.parametrize(
    ("labels", "text"), [("at_release", "epochs(60, 3)"), ("flips", "epochs(60, 3), lightgcn(1, 4, 4)")]
)
def test_early_stopping_goes_back_to_the_best_weights_and_rows(labels: str, text: str) -> None:
    """So many epochs over few impressions that the held-out loss must rise."""
    made, shop = learner(labels=labels, strategy=text, hold_out=0.4, learning_rate=0.05), Shop(items=20)
    learned(made, shop, 60)
    engine = strategy(made)
    examples = list(engine._held._kept)
    losses: list[float] = []
    look = engine._loss_under

    def seen(flat: torch.Tensor, groups: Sequence[Group]) -> float:
        losses.append(look(flat, groups))
        return losses[-1]

    engine._loss_under = seen  # type: ignore[method-assign]
    ended: dict[str, float] = {}
    step = engine._step
    engine._step = lambda *given: _first(ended, engine, examples, made, step, *given)  # type: ignore[method-assign,assignment]
    made.released()
    assert part(made).counters["stopped"] == 1
    assert part(made).counters["steps"] < 60 * 3
    assert ended["loss"] == pytest.approx(min(losses), rel=1e-5)


def _first(
    ended: dict[str, float], engine: OnlineStrategy, held: list[Example], made: Learner, step: Any, *given: Any
) -> Learned:
    """Before the held-out impressions themselves are learned, note how they are scored."""
    groups = given[0]
    if groups[0].examples[0].impression_id in {example.impression_id for example in held}:
        ended.setdefault("loss", loss_on(made, held))
    found: Learned = step(*given)
    return found
