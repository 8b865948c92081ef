"""Learning to rank beside the log-loss: pairs and lists of what was shown together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from services.trainer.strategies.parts import Seen
from services.trainer.strategies.ranks import shown
from tests.trainer.strategies.shop import Shop, finished, learned, learner, part, seen, step_of, strategy


def through(text: str) -> Seen:
    """Finished impressions going through a model that has not learned."""
    made = learner(strategy=text)
    return seen(made, made.encode(finished(Shop(), 40)))


def by_hand(found: Seen, cost: str) -> Tensor:
    """The sum over actions, one by one."""
    total = torch.zeros(())
    listed, heads = shown(found.group), found.objective.heads
    for b, n, h in zip(*np.nonzero(found.group.positives > 0), strict=True):
        z = found.logits[b, :, h]
        if cost == "list":
            value = -torch.log_softmax(z[listed[b]], 0)[int(listed[b][:n].sum())]
        else:
            others = listed[b] & (found.group.positives[b, :, h] <= 0)
            value = F.softplus(z[others] - z[n]).mean()
        total = total + float(found.group.positives[b, n, h]) * heads[h] * value
    return total


def test_pairs_cost_what_ranknet_says() -> None:
    found = through("pairwise(0.5)")
    term = part(learner(strategy="pairwise(0.5)")).term(found)
    assert term is not None
    torch.testing.assert_close(term, 0.5 * by_hand(found, "pair"))


def test_lists_cost_the_softmax_of_what_was_shown() -> None:
    found = through("listwise(0.5)")
    term = part(learner(strategy="listwise(0.5)")).term(found)
    assert term is not None
    torch.testing.assert_close(term, 0.5 * by_hand(found, "list"))


@pytest.mark.parametrize("text", ["pairwise()", "listwise()"])
def test_what_all_of_an_answer_have_in_common_changes_nothing(text: str) -> None:
    found = through(text)
    higher = replace(found, logits=found.logits + 3.0)
    first, second = (part(learner(strategy=text)).term(one) for one in (found, higher))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("text", ["pairwise()", "listwise()"])
def test_what_was_not_shown_is_no_contrast(text: str) -> None:
    found = through(text)
    acted = found.group.positives.any(-1)[found.group.layout.items_at]
    for number, item in enumerate(found.group.layout.items):
        item.shown = bool(acted[number]) or number % 3 > 0
    hidden = torch.from_numpy(~shown(found.group)).unsqueeze(-1)
    assert hidden.any()
    other = replace(found, logits=found.logits + 50.0 * hidden)
    first, second = (part(learner(strategy=text)).term(one) for one in (found, other))
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("text", ["pairwise()", "listwise()"])
def test_without_an_action_there_is_no_term(text: str) -> None:
    made = learner(strategy=text)
    initial = made.encode(step_of(Shop().messages(5)).initial)
    assert part(made).term(seen(made, initial)) is None


@pytest.mark.parametrize("text", ["pairwise(2)", "listwise(2)"])
def test_it_orders_better_and_stays_calibrated(text: str) -> None:
    made = learned(learner(strategy=text, learning_rate=0.01), Shop(), 300)
    group = made.encode(finished(Shop(seed=9), 150))
    scores = torch.sigmoid(strategy(made).ranker.logits(group.tensors(torch.device("cpu"))))[:, :, 0].detach().numpy()
    listed, clicks = shown(group), group.positives[:, :, 0] > 0
    pairs = [
        (scores[b][clicks[b]][:, None] > scores[b][listed[b] & ~clicks[b]]).mean()
        for b in range(len(scores))
        if clicks[b].any() and (listed[b] & ~clicks[b]).any()
    ]
    assert float(np.mean(pairs)) > 0.6
    assert 0.5 < float(scores[listed].sum() / clicks[listed].sum()) < 2.0
