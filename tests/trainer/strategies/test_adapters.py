"""Moving few of the weights: layers and low-rank adapters."""

import torch

from services.trainer.strategies.adapters import AdaptiveRank, LowRank
from tests.trainer.strategies.shop import (
    learned,
    learner,
    part,
    strategy,
    weights,
)
from tests.trainer.world import Shop


def test_low_rank_adapters_leave_the_base_alone_and_are_exported_merged() -> None:
    made, shop = learner(strategy="lora(1, 2)"), Shop()
    learned(made, shop, 30)
    made.released()
    adapter = part(made)
    assert isinstance(adapter, LowRank)
    base = adapter.vectors["base"].clone()
    learned(made, shop, 30)
    assert torch.equal(adapter.vectors["base"], base)
    dense = strategy(made)._dense
    assert torch.equal(dense.flat, adapter.merged(dense))
    moved = dense.named(dense.flat - base)
    changed = {name for name, value in moved.items() if value.any()}
    assert changed == set(adapter._matrices(dense, dense.flat))
    assert all(int(torch.linalg.matrix_rank(moved[name], atol=1e-6)) <= 1 for name in changed)


def test_the_factors_have_the_gradient_of_an_explicit_adapter() -> None:
    source = torch.Generator().manual_seed(0)
    w, x, y = (torch.randn(*shape, generator=source) for shape in ((6, 5), (9, 5), (9, 6)))
    a, b = torch.randn(2, 5, generator=source).requires_grad_(), torch.randn(6, 2, generator=source).requires_grad_()
    ((x @ (w + 1.5 * b @ a).T - y) ** 2).sum().backward()
    merged = (w + 1.5 * b @ a).detach().requires_grad_()
    ((x @ merged.T - y) ** 2).sum().backward()
    assert merged.grad is not None
    torch.testing.assert_close(1.5 * b.detach().T @ merged.grad, a.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(1.5 * merged.grad @ a.detach().T, b.grad, rtol=1e-4, atol=1e-4)


def test_adaptive_rank_keeps_its_budget_of_directions() -> None:
    made, shop = learner(strategy="adalora(1, 0.25)"), Shop()
    made.released()
    learned(made, shop, 60)
    made.released()
    adapter = part(made)
    assert isinstance(adapter, AdaptiveRank)
    scales = torch.cat([v for name, v in adapter._factors.items() if name.endswith("/l")])
    assert int((scales != 0).sum()) == max(1, int(0.25 * len(scales)))


def test_only_the_chosen_layers_move() -> None:
    made, shop = learner(strategy="layers(top)"), Shop()
    learned(made, shop, 20)
    made.released()
    before = weights(made)
    learned(made, shop, 20)
    dense = strategy(made)._dense
    moved = {n.rpartition(".")[0] for n, v in dense.named(dense.flat - before).items() if v.any()}
    assert moved == {"deep", "out"}


def test_what_was_taken_over_thaws_after_so_many_impressions() -> None:
    made, shop = learner(strategy="thaw(40)"), Shop()
    before = weights(made)
    dense = strategy(made)._dense

    def moved() -> set[str]:
        return {n.rpartition(".")[0] for n, v in dense.named(dense.flat - before).items() if v.any()}

    learned(made, shop, 30)
    assert moved() == {"deep", "out"}
    learned(made, shop, 20)
    assert "attention.query" in moved()
