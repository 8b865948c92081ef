"""What is rare, learned more often: repeat factors, and that flips stay with what they take back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from services.common.records import CLOSED
from services.trainer.examples import Step
from services.trainer.groups import Floats, Group
from services.trainer.learner import Learner
from services.trainer.strategies.base import Update
from services.trainer.strategies.oversampling import RareItems, RareLabels, drawn, factor
from tests.trainer.arm import settings
from tests.trainer.strategies.shop import learned, learner, part, seen, step_of, strategy, weights
from tests.trainer.world import Shop

RARE = "rare_items(1, 8)"
"""Everything that is not in each list is rare."""


def update(made: Learner, step: Step, number: int = 1) -> Update:
    """What a step brings, encoded."""
    return Update([made.encode(e) for e in (step.initial, step.flips) if e], number, made.encode)


def gradient(made: Learner, groups: list[Group]) -> torch.Tensor:
    """Of the summed loss of groups and what the parts add, by the dense weights as they are."""
    engine = strategy(made)
    engine._dense.zero()
    for group in groups:
        inputs = group.tensors(torch.device("cpu"))
        engine._loss_of(group, inputs, None, np.random.default_rng(0)).backward()  # type: ignore[no-untyped-call]
    return engine._dense.gradient.clone()


def full(made: Learner, step: Step, times: Floats) -> Group:
    """The impressions of a step with their final labels, each weighing so much."""
    closed = [replace(e, weights=np.full(len(e.items), t, np.float32)) for e, t in zip(step.closed, times, strict=True)]
    assert all(e.kind == CLOSED for e in closed)
    return made.encode(closed)


def test_the_factor_is_that_of_the_paper_and_is_the_mean_of_what_is_drawn() -> None:
    for share in (1.0, 0.01, 0.001, 0.0004, 0.0001):
        assert factor(share, 0.001, 100) == pytest.approx(max(1.0, math.sqrt(0.001 / share)))
    assert factor(1e-9, 0.001, 8) == 8
    draws = [drawn(2.3, f"impression-{k}") for k in range(5000)]
    assert set(draws) == {2, 3}
    assert np.mean(draws) == pytest.approx(2.3, abs=0.02)
    assert draws == [drawn(2.3, f"impression-{k}") for k in range(5000)]


def test_the_rarest_item_says_how_often_an_impression_is_repeated() -> None:
    made, shop = learner(strategy="rare_items(0.5, 8)"), Shop(items=12, listed=4)
    learned(made, shop, 50)
    step = step_of(shop.messages(10))
    rare = part(made)
    assert isinstance(rare, RareItems)
    group = update(made, step).groups[0]
    rare.more(Update([group], 1, made.encode))
    counts, shown = rare._shown.counts(group), rare._shown.impressions
    expected = [max(1.0, math.sqrt(0.5 * shown / count)) for count in counts.min(1)]
    np.testing.assert_allclose(rare._of(group), expected, rtol=1e-6)
    assert 60 <= shown <= 61
    assert max(expected) > 1


def test_the_sum_of_what_appears_and_flips_is_that_of_the_repeated_full_labels() -> None:
    """The copies flip as often as they appeared, though their items are no longer rare by then."""
    made, shop = learner(strategy=RARE), Shop(items=40)
    learned(made, shop, 30)
    step, rare = step_of(shop.messages(12)), part(made)
    assert isinstance(rare, RareItems)
    shown = update(made, Step(initial=step.initial))
    groups = [*shown.groups, *rare.more(shown)]
    factors = rare._of(shown.groups[0]).tolist()
    repeats = np.array([drawn(r, e.impression_id) for e, r in zip(step.initial, factors, strict=True)])
    assert repeats.max() > 1
    rare._shown._sketch.counts[:] = 255
    late = update(made, Step(flips=step.flips))
    groups += [*late.groups, *rare.more(late)]
    expected = gradient(made, [full(made, step, repeats.astype(np.float32))])
    torch.testing.assert_close(gradient(made, groups), expected, rtol=1e-4, atol=1e-4)
    once = gradient(made, [*shown.groups, *late.groups])
    assert float((expected - once).abs().max()) > 0.1


def test_divided_weights_leave_the_expected_loss_of_plain_learning() -> None:
    made, plain = learner(strategy="rare_items(1, 8, divided)"), learner()
    shop = Shop(items=40)
    learned(made, shop, 30)
    rare, totals = part(made), []
    assert isinstance(rare, RareItems)
    for number in range(25):
        step = update(made, step_of(shop.messages(20)), number)
        copies = rare.more(step)
        own = step.groups[0].negatives.sum() + (rare._of(step.groups[0])[:, None] ** -1 - 1).repeat(8, 1).sum()
        totals.append((own + copies[0].negatives.sum()) / step.groups[0].negatives.sum())
    assert np.mean(totals) == pytest.approx(1, abs=0.03)
    assert np.std(totals) > 0
    assert plain.strategy.state().keys() < made.strategy.state().keys()


def test_the_originals_of_divided_repeats_are_lighter_too() -> None:
    made, shop = learner(strategy="rare_items(1, 8, divided)"), Shop(items=40)
    learned(made, shop, 30)
    step, rare = step_of(shop.messages(12)), part(made)
    assert isinstance(rare, RareItems)
    everything = update(made, step)
    groups = [*everything.groups, *rare.more(everything)]
    factors = rare._of(everything.groups[0])
    times = [drawn(float(r), e.impression_id) / r for e, r in zip(step.initial, factors, strict=True)]
    expected = gradient(made, [full(made, step, np.array(times, np.float32))])
    torch.testing.assert_close(gradient(made, groups), expected, rtol=1e-4, atol=1e-4)


def test_what_is_never_rare_is_learned_as_without_the_part() -> None:
    one, other = learner(strategy="rare_items(0.000001)"), learner()
    for made in (one, other):
        learned(made, Shop(), 20)
    assert torch.equal(weights(one), weights(other))


def test_held_out_impressions_are_not_brought_back_by_copies() -> None:
    made, shop = learner(strategy=RARE, hold_out=0.5), Shop(items=40)
    learned(made, shop, 30)
    everything = update(made, step_of(shop.messages(20)))
    for group in everything.groups:
        strategy(made)._held.leave_out(group)
    copies = part(made).more(everything)
    assert copies
    assert not any(example in strategy(made)._held for copy in copies for example in copy.examples)


def test_a_rare_label_counts_as_often_as_it_is_repeated_and_no_other() -> None:
    made, shop = learner(strategy="rare_labels(2, 8)"), Shop(items=20)
    learned(made, shop, 60)
    step, rare = step_of(shop.messages(10)), part(made)
    assert isinstance(rare, RareLabels)
    everything = update(made, step)
    rare.more(everything)
    clicks = rare._heads[0] / rare.counters["impressions"]
    assert factor(clicks, 2, 8) > 1
    shown, flipped = everything.groups
    assert rare.term(seen(made, shown)) is None
    clicked = seen(made, flipped)
    one = torch.nn.functional.softplus(-clicked.logits.detach()[:, :, 0]).numpy()
    at = list(zip(*np.nonzero(flipped.positives[:, :, 0]), strict=True))
    names = [f"{flipped.examples[b].impression_id}:{flipped.examples[b].impression.items[n].item_id}:0" for b, n in at]
    times = [drawn(factor(clicks, 2, 8), name) - 1 for name in names]
    assert set(times) >= {0, 1} or max(times) > 0
    found = rare.term(clicked)
    assert found is not None
    expected = sum(t * one[b, n] for t, (b, n) in zip(times, at, strict=True))
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_repeated_clicks_raise_the_odds_and_divided_ones_do_not() -> None:
    rates = {}
    for text in ("", "rare_labels(20, 4)", "rare_labels(20, 4, divided)"):
        made, shop = learner(strategy=text, learning_rate=0.01), Shop(items=20)
        learned(made, shop, 500)
        made.progress._window.clear()
        learned(made, shop, 150)
        figures = made.progress.metrics()
        rates[text] = figures["predicted_ctr"] / (1 - figures["predicted_ctr"])
    assert rates["rare_labels(20, 4)"] > 1.8 * rates[""]
    assert rates["rare_labels(20, 4, divided)"] == pytest.approx(rates[""], rel=0.25)


@pytest.mark.parametrize("labels", ["waiting", "at_release"])
def test_repeats_of_what_is_learned_later_are_refused(labels: str) -> None:
    with pytest.raises(ValidationError, match="rare_items repeats impressions as they come"):
        settings(labels=labels, strategy="epochs(1), rare_items()")
