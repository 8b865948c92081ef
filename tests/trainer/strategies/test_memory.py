"""Against forgetting and for more data: elastic weights, replay, augmented histories, accumulated steps."""

import numpy as np
import pytest
import torch

from services.common import records
from services.trainer.examples import Batch
from services.trainer.strategies.anchors import ElasticWeights
from services.trainer.strategies.base import Update
from services.trainer.strategies.replay import Replay
from tests.trainer.strategies.shop import (
    finished,
    learned,
    learner,
    loss_on,
    part,
    step_of,
    strategy,
    weights,
)
from tests.trainer.world import Shop


def _forgotten(text: str) -> float:
    """How much worse the first taste is scored after a second one was learned."""
    first, second = Shop(seed=1, items=12), Shop(seed=2, items=12)
    second.made = 10_000
    made = learner(strategy=text, row_learning_rate=1e-6)
    learned(made, first, 300)
    made.released()
    examples = finished(first, 60)
    before = loss_on(made, examples)
    learned(made, second, 300)
    return loss_on(made, examples) - before


def test_elastic_weights_and_replay_forget_less_than_plain_learning() -> None:
    plain = _forgotten("")
    assert _forgotten("ewc(1000)") < 0.7 * plain
    assert _forgotten("replay(300, 0.5)") < 0.7 * plain


def test_the_penalty_of_elastic_weights_is_the_gradient_of_its_formula() -> None:
    made = learner()
    dense, anchored = strategy(made)._dense, ElasticWeights(strength=3.0)
    anchored.begin(dense)
    fisher = torch.rand(dense.flat.shape, generator=torch.Generator().manual_seed(2))
    anchored.vectors |= {"fisher": fisher, "anchor": torch.zeros_like(dense.flat)}
    theta = dense.flat.clone().requires_grad_()
    (3.0 / 2 * (fisher * theta**2).sum()).backward()
    dense.zero()
    anchored.gradient(dense, 1)
    torch.testing.assert_close(dense.gradient, theta.grad)


def test_the_proximal_term_is_the_gradient_of_its_formula() -> None:
    made = learner(strategy="proximal(3)")
    dense, held = strategy(made)._dense, part(made)
    began = dense.flat.clone()
    dense.flat += torch.rand(dense.flat.shape, generator=torch.Generator().manual_seed(2))
    theta = dense.flat.clone().requires_grad_()
    (3.0 / 2 * ((theta - began) ** 2).sum()).backward()
    dense.zero()
    held.gradient(dense, 1)
    torch.testing.assert_close(dense.gradient, theta.grad)


def test_a_strong_proximal_term_keeps_weights_where_the_round_began() -> None:
    moved = {}
    for mu in (0.0, 0.1, 10.0):
        made = learner(strategy=f"proximal({mu})", optimiser="sgd", learning_rate=0.003)
        shop = Shop(items=20)
        learned(made, shop, 40)
        strategy(made).received()
        began = weights(made)
        learned(made, shop, 60)
        moved[mu] = float((weights(made) - began).norm())
    assert moved[0.0] > moved[0.1] > moved[10.0]
    assert moved[10.0] < 0.8 * moved[0.0]


def test_the_reservoir_is_a_uniform_sample() -> None:
    shop = Shop(listed=2)
    examples = finished(shop, 200)
    counts = np.zeros(200)
    for seed in range(150):
        replay = Replay(kept=20, share=0.5)
        update = Update([], seed, lambda found: None, finished=examples)  # type: ignore[arg-type,return-value]
        replay.more(update)
        for example in replay._kept:
            counts[examples.index(example)] += 1
    assert counts.sum() == 150 * 20
    assert counts[:100].sum() == pytest.approx(counts[100:].sum(), rel=0.1)


def test_replay_brings_its_share_and_forgets_shoppers() -> None:
    made, shop = learner(strategy="replay(100, 0.75)"), Shop(users=3)
    learned(made, shop, 60)
    replay = part(made)
    assert isinstance(replay, Replay)
    step = step_of(shop.messages(6))
    groups = [made.encode(step.initial)]
    more = replay.more(Update(groups, 999, made.encode))
    assert sum(len(group.negatives) for group in more) == 18
    made._forget(step.initial[0])
    assert step.initial[0].user not in {e.user for e in replay._kept if e.event_time_us < step.initial[0].event_time_us}


@pytest.mark.parametrize("change", ["crop", "mask", "reorder"])
def test_copies_have_another_history_and_the_same_labels(change: str) -> None:
    made, shop = learner(strategy=f"augmentation({change}, 1)"), Shop()
    step = step_of(shop.messages(10))
    groups = [made.encode(step.initial), made.encode(step.flips)]
    copies = part(made).more(Update(groups, 1, made.encode))
    assert [copy.kind for copy in copies] == [group.kind for group in groups]
    for group, copy in zip(groups, copies, strict=True):
        assert copy.copy
        assert np.array_equal(copy.negatives, group.negatives)
        assert np.array_equal(copy.positives, group.positives)
        kept, before = copy.arrays["history_mask"].sum(), group.arrays["history_mask"].sum()
        assert kept == before if change == "reorder" else 0 < kept < before
        assert np.array_equal(group.arrays["history_mask"], made.encode(group.examples).arrays["history_mask"])


def test_the_same_impressions_are_copied_when_they_flip() -> None:
    made, shop = learner(strategy="augmentation(mask, 0.5)"), Shop()
    step = step_of(shop.messages(40))
    groups = [made.encode(step.initial), made.encode(step.flips)]
    shown, flipped = part(made).more(Update(groups, 1, made.encode))
    ids = {e.impression_id for e, w in zip(shown.examples, shown.negatives, strict=True) if w.any()}
    for example, weights_ in zip(flipped.examples, flipped.positives, strict=True):
        assert bool(weights_.any()) == (example.impression_id in ids)
    assert 10 < len(ids) < 30


def test_accumulated_steps_equal_one_large_one() -> None:
    changes = {"batch_impressions": 1, "batch_items": 1, "seed": 4, "schedule": "constant", "warmup_impressions": 1}
    small = learner(**changes, accumulate=4, admission=255)
    large = learner(**changes | {"batch_impressions": 4}, admission=255)
    for made in (small, large):
        strategy(made).ranker.due = lambda step: False  # type: ignore[method-assign]
    messages = [_initial(m) for m in Shop().messages(4)]
    small.apply(Batch({0: (0, 4)}, {0: messages}))
    large.apply(Batch({0: (0, 4)}, {0: messages}))
    assert (small.steps, large.steps) == (4, 1)
    torch.testing.assert_close(weights(small), weights(large), atol=1e-6, rtol=1e-5)


def _initial(message: bytes) -> bytes:
    rows = records.decode(message)
    return records.encode(rows.slice(0, 1))
