"""Steps of the dense part: each against its formula, computed by others or by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from services.trainer.strategies.optimisers import DenseConfig, DenseOptimiser, Optimiser

RATE = 0.1


def module() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 3)


def steps(
    optimiser: Optimiser, count: int = 6, **changes: Any
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """(weights before, weights after, gradients) of some steps."""
    chance = torch.Generator().manual_seed(1)
    values = {"rate": RATE, "warmup": 1, "clip": 0.0, "first": 0.0, **changes}
    made = DenseOptimiser(module(), DenseConfig(optimiser=optimiser, **values))
    before, gradients = made.flat.clone(), [torch.randn(made.flat.shape, generator=chance) for _ in range(count)]
    for gradient in gradients:
        made.gradient.copy_(gradient)
        made.step()
    return before, made.flat.clone(), gradients


def by_torch(make: Any, before: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    weights = before.clone().requires_grad_()
    optimiser = make([weights])
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimiser.step()
    return weights.detach()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=RATE)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=RATE)),
        ("adam", lambda p: torch.optim.Adam(p, lr=RATE, betas=(0.9, 0.99))),
    ],
)
def test_each_step_is_its_formula(name: Optimiser, make: Any) -> None:
    before, after, gradients = steps(name)
    torch.testing.assert_close(after, by_torch(make, before, gradients), rtol=1e-4, atol=1e-5)


def test_ftrl_gives_the_minimum_of_what_it_follows() -> None:
    """w_t minimises the sum of gradients times w, the quadratic stays near earlier weights, and the penalties."""
    l1, l2 = 0.3, 0.5
    before, after, gradients = steps("ftrl", l1=l1, l2=l2)
    squares, weights, sums = (
        torch.zeros_like(before),
        before.clone(),
        -before * (1 / RATE + l2) - torch.sign(before) * l1,
    )
    for gradient in gradients:
        sigma = ((squares + gradient**2).sqrt() - squares.sqrt()) / RATE
        sums = sums + gradient - sigma * weights
        squares = squares + gradient**2
        weights = torch.where(
            sums.abs() <= l1, 0.0, -(sums - torch.sign(sums) * l1) / ((1 + squares.sqrt()) / RATE + l2)
        )
    torch.testing.assert_close(after, weights, rtol=1e-4, atol=1e-6)


def test_weights_that_would_cross_zero_stay_there_under_a_strong_pull() -> None:
    before, after, _ = steps("ftrl", count=60, l1=1e3)
    assert bool((after == 0).any())
    assert not bool((torch.sign(before) * torch.sign(after) < 0).any())


def test_ftrl_begins_with_the_weights_there_are() -> None:
    made = DenseOptimiser(module(), DenseConfig(optimiser="ftrl", rate=RATE, warmup=1))
    before = made.flat.clone()
    made.zero()
    made.step()
    torch.testing.assert_close(made.flat, before)


def test_weights_written_from_outside_stay_where_they_were_put() -> None:
    made = DenseOptimiser(module(), DenseConfig(optimiser="ftrl", rate=RATE, warmup=1))
    made.gradient.fill_(0.5)
    made.step()
    made.flat.fill_(0.25)
    made.rebase()
    made.zero()
    made.step()
    torch.testing.assert_close(made.flat, torch.full_like(made.flat, 0.25))


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "ftrl"])
def test_memory_goes_on_the_same_after_a_restart(name: Optimiser) -> None:
    config = DenseConfig(optimiser=name, rate=RATE)
    one, other = DenseOptimiser(module(), config), DenseOptimiser(module(), config)
    one.gradient.fill_(0.3)
    one.step()
    other.flat.copy_(one.flat)
    other.load(one.state(), one.counts)
    for made in (one, other):
        made.gradient.fill_(-0.2)
        made.step()
    assert torch.equal(one.flat, other.flat)
    assert torch.equal(one.average, other.average)


def test_what_adapts_the_step_scales_it() -> None:
    one, other = (DenseOptimiser(module(), DenseConfig(optimiser="sgd", rate=RATE, warmup=1, clip=0)) for _ in range(2))
    start = one.flat.clone()
    other.scale = 3.0
    for made in (one, other):
        made.gradient.fill_(1.0)
        made.step()
    torch.testing.assert_close(other.flat - start, 3 * (one.flat - start))
