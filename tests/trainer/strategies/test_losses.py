"""Losses: their formulas against independent ones, and that halves add up."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from services.common.records import FLIP, INITIAL
from services.trainer.strategies import expression
from services.trainer.strategies.losses import CrossEntropy, Focal, GroupLoss, Reweighted, Smoothed, Truncated, Weighted
from tests.trainer.strategies.shop import learned, learner, step_of
from tests.trainer.world import Shop

LOGITS = torch.linspace(-6, 6, 25, dtype=torch.float64)


def test_the_gradient_of_cross_entropy_by_the_logit_is_p_minus_y() -> None:
    for label, half in ((0.0, CrossEntropy().zero), (1.0, CrossEntropy().one)):
        z = LOGITS.clone().requires_grad_()
        half(z).sum().backward()
        torch.testing.assert_close(z.grad, torch.sigmoid(LOGITS) - label)


def test_the_gradient_of_cross_entropy_by_the_probability_is_over_p_times_one_minus_p() -> None:
    p = torch.sigmoid(LOGITS).requires_grad_()
    F.binary_cross_entropy(p, torch.ones_like(p), reduction="sum").backward()
    torch.testing.assert_close(p.grad, ((p - 1) / (p * (1 - p))).detach())


@pytest.mark.parametrize("made", [CrossEntropy(), Focal(2.0), Smoothed(0.2), Weighted(3.0), Reweighted(0.5)])
def test_a_flip_takes_label_0_back_and_brings_label_1(made: CrossEntropy) -> None:
    torch.testing.assert_close(made.zero(LOGITS) + made.flip(LOGITS), made.one(LOGITS))


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    torch.testing.assert_close(Focal(0.0).one(LOGITS), CrossEntropy().one(LOGITS))
    p = torch.sigmoid(LOGITS)
    torch.testing.assert_close(Focal(2.0).one(LOGITS), -((1 - p) ** 2) * torch.log(p))
    torch.testing.assert_close(Focal(2.0).zero(LOGITS), -(p**2) * torch.log(1 - p), atol=1e-6, rtol=1e-6)


def test_smoothed_labels_are_cross_entropy_against_a_soft_label() -> None:
    soft = torch.full_like(LOGITS, 0.9)
    expected = F.binary_cross_entropy_with_logits(LOGITS, soft, reduction="none")
    torch.testing.assert_close(Smoothed(0.2).one(LOGITS), expected)


def test_unlikely_positives_count_less_or_not_at_all() -> None:
    sure, doubtful = torch.tensor([3.0]), torch.tensor([-6.0])
    plain = CrossEntropy()
    assert Reweighted(1.0).one(doubtful) / plain.one(doubtful) == pytest.approx(float(torch.sigmoid(doubtful)))
    assert Truncated(0.01).one(doubtful) == 0
    assert Truncated(0.01).one(sure) == plain.one(sure)


def test_the_weight_of_a_doubtful_positive_is_not_learned() -> None:
    z = torch.tensor([-2.0], requires_grad=True)
    Reweighted(1.0).one(z).backward()
    p = torch.sigmoid(torch.tensor([-2.0]))
    torch.testing.assert_close(z.grad, p * (p - 1))


@pytest.mark.parametrize("labels", ["fake_negatives", "calibrated"])
def test_what_counts_fake_negatives_settles_where_full_labels_do(labels: str) -> None:
    """With true probability p, the stream holds every impression as a negative and a share p again as a positive."""
    group = learner().encode(step_of(Shop().messages(1)).initial)
    loss = GroupLoss(CrossEntropy(), torch.ones(3), labels)
    z = torch.full((*group.negatives.shape, 3), -1.0, requires_grad=True)
    true = torch.sigmoid(torch.tensor(-1.0))
    group.kind = INITIAL
    total = loss(z, group)
    group.kind, group.negatives = FLIP, np.zeros_like(group.negatives)
    group.positives = np.full_like(group.positives, float(true))
    (total + loss(z, group)).backward()
    torch.testing.assert_close(z.grad, torch.zeros_like(z), atol=1e-6, rtol=0)


def test_calibrated_labels_fit_the_share_of_positives_among_what_is_learned() -> None:
    group = learner().encode(step_of(Shop().messages(1)).initial)
    loss = GroupLoss(CrossEntropy(), torch.ones(3), "calibrated")
    z = torch.linspace(-6, 6, group.negatives.size * 3).reshape(*group.negatives.shape, 3)
    b = torch.sigmoid(z) / (1 + torch.sigmoid(z))
    shown = torch.from_numpy(group.negatives).unsqueeze(-1)
    torch.testing.assert_close(loss(z, group), F.binary_cross_entropy(b, torch.zeros_like(b), shown, reduction="sum"))
    group.kind, group.positives = FLIP, np.ones_like(group.positives)
    group.negatives = np.zeros_like(group.negatives)
    torch.testing.assert_close(loss(z, group), F.binary_cross_entropy(b, torch.ones_like(b), reduction="sum"))


def test_losses_of_a_line_stand_on_each_other() -> None:
    made = expression.loss("focal(2), smoothed(0.1)")
    torch.testing.assert_close(made.one(LOGITS), Smoothed(0.1, Focal(2.0)).one(LOGITS))
    assert isinstance(expression.loss(""), CrossEntropy)
    with pytest.raises(ValueError, match="hinge is none of cross_entropy"):
        expression.loss("hinge()")


@pytest.mark.parametrize("loss", ["focal(1)", "smoothed(0.05)", "reweighted(0.2)", "truncated(0.001)"])
def test_what_is_learned_under_it_still_ranks(loss: str) -> None:
    made, shop = learner(loss=loss), Shop(items=20)
    learned(made, shop, 400)
    made.progress._window.clear()
    learned(made, shop, 150)
    assert made.progress.metrics()["auc"] > 0.72


@pytest.mark.parametrize("labels", ["waiting", "fake_negatives", "calibrated"])
def test_late_labels_are_learned_by_waiting_or_by_weight(labels: str) -> None:
    made, shop = learner(labels=labels), Shop(items=20)
    learned(made, shop, 500)
    made.progress._window.clear()
    learned(made, shop, 150)
    figures = made.progress.metrics()
    assert figures["auc"] > 0.72
    assert figures["predicted_ctr"] == pytest.approx(figures["ctr"], rel=0.3)
