"""Packed sessions, rows that grow, softmax over a sample, exact ranks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as f

from services.common.errors import CorruptState, InvalidInput
from services.trainer.sequence.losses import Sample, Sampler, full_softmax, sampled_softmax
from services.trainer.sequence.metrics import counts, scored
from services.trainer.sequence.model import SequenceModel, Sizes, drop
from services.trainer.sequence.packed import NONE, pack
from services.trainer.sequence.rows import BETAS, EPSILON, ItemRows
from services.trainer.sequence.sessions import Sessions, joined


def sessions_of(*lists: list[int]) -> Sessions:
    lengths = [len(part) for part in lists]
    items = np.array([item for part in lists for item in part], np.int64)
    return Sessions(np.arange(len(lists)), items, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def some_sessions(n: int, longest: int, seed: int = 0) -> Sessions:
    random = np.random.default_rng(seed)
    return sessions_of(*(random.integers(0, 50, random.integers(2, longest + 1)).tolist() for _ in range(n)))


def lists_of(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.items, sessions.starts[1:-1])]


def test_interleaved_clicks_keep_their_order_within_a_session() -> None:
    found = Sessions.of_clicks(np.array([9, 2, 9, 2, 9]), np.array([5, 1, 4, 1, 3]))
    assert found.ids.tolist() == [2, 9]
    assert lists_of(found) == [[1, 1], [5, 4, 3]]


def test_dropping_items_drops_sessions_that_have_nothing_to_tell() -> None:
    found = sessions_of([1, 2, 3], [4, 2], [5, 6])
    assert lists_of(found.known(found.items != 2)) == [[1, 3], [5, 6]]


def test_taken_and_joined_sessions_are_the_same_sessions() -> None:
    found = sessions_of([1, 2, 3], [4, 5], [6, 7, 8, 9])
    both = joined([found.take(np.array([2, 0])), found.take(np.array([1]))])
    assert lists_of(both) == [[6, 7, 8, 9], [1, 2, 3], [4, 5]]
    assert both.ids.tolist() == [2, 0, 1]


def test_a_tenth_is_held_out_and_it_is_the_same_tenth_whatever_comes_along() -> None:
    many = sessions_of(*[[1, 2]] * 20_000)
    training, held_out = many.held_out(0.1)
    assert len(held_out) == pytest.approx(2_000, abs=4 * np.sqrt(20_000 * 0.09))
    assert sorted([*training.ids, *held_out.ids]) == list(range(20_000))
    assert set(many.take(np.arange(100)).held_out(0.1)[1].ids) == {i for i in held_out.ids if i < 100}


@pytest.mark.parametrize(("longest", "length"), [(6, 8), (40, 8), (9, 9), (5, 1)])
def test_packing_asks_every_prefix_once_with_its_own_past(longest: int, length: int) -> None:
    given = some_sessions(60, longest)
    packed = pack(given, length)
    asked = []
    for row in range(len(packed)):
        for at in torch.nonzero(packed.targets[row] != NONE)[:, 0]:
            own = (packed.sessions[row] == packed.sessions[row, at]) & (torch.arange(length) <= at)
            asked.append((*packed.inputs[row][own].tolist(), int(packed.targets[row, at])))
    wanted = [tuple(part[: end + 1]) for part in lists_of(given) for end in range(1, len(part))]
    assert len(asked) == len(wanted)
    least = max(1, length // 2)
    assert sorted(a[-least - 1 :] for a in asked) == sorted(w[-least - 1 :] for w in wanted)
    assert all(len(a) - 1 <= length for a in asked)
    if longest <= length:
        assert sorted(asked) == sorted(wanted)


def test_packed_rows_are_nearly_full() -> None:
    assert pack(some_sessions(500, 12), 64).filled > 0.95


def test_a_session_without_a_target_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two items"):
        pack(sessions_of([1, 2], [3]), 8)


@pytest.mark.parametrize("unit", [True, False])
def test_packed_sessions_give_the_vectors_that_they_give_alone(unit: bool) -> None:
    torch.manual_seed(0)
    model = SequenceModel(Sizes(dim=16, length=12, unit=unit)).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.distance)
    table = model.items(torch.randn(50, 16))
    given = some_sessions(20, 7)
    together = {}
    packed = pack(given, 12)
    vectors = model(table[packed.inputs], packed.sessions)
    for row, at in torch.nonzero(packed.targets != NONE).tolist():
        own = (packed.sessions[row] == packed.sessions[row, at]) & (torch.arange(12) <= at)
        together[tuple(packed.inputs[row][own].tolist())] = vectors[row, at]
    for part in lists_of(given):
        alone = model(table[torch.tensor([part[:-1]])], torch.ones(1, len(part) - 1, dtype=torch.int64))[0]
        for end in range(1, len(part)):
            torch.testing.assert_close(together[tuple(part[:end])], alone[end - 1], atol=1e-5, rtol=1e-4)


def test_unit_vectors_bound_every_logit_by_the_scale() -> None:
    model = SequenceModel(Sizes(dim=8, length=4, scale=16.0)).eval()
    table = model.items(torch.randn(30, 8) * 100)
    vectors = model(table[torch.randint(30, (5, 4))], torch.ones(5, 4, dtype=torch.int64))
    assert float((vectors @ table.T).detach().abs().max()) <= 16.0 + 1e-4


def test_dropout_acts_in_training_only() -> None:
    model = SequenceModel(Sizes(dim=8, length=4))
    model.set_dropout(0.5)
    items, sessions = torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.int64)
    assert not torch.equal(model(items, sessions), model(items, sessions))
    model.eval()
    assert torch.equal(model(items, sessions), model(items, sessions))


def test_dropout_keeps_the_mean_and_drops_the_share_asked_for() -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(100_000), 0.3)
    assert float((dropped == 0).double().mean()) == pytest.approx(0.3, abs=0.006)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    assert len(dropped.unique()) == 2


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InvalidInput, match="heads"):
        Sizes(dim=10, heads=4)


def test_new_items_get_rows_and_old_rows_stay() -> None:
    rows = ItemRows(4, 0.1)
    rows.add(np.array([70, 30, 70]), seed=1)
    before = rows.values.clone()
    rows.add(np.array([30, 5, 70, 8]), seed=2)
    assert rows.find(np.array([70, 30, 5, 8, 99])).tolist() == [0, 1, 2, 3, -1]
    assert torch.equal(rows.values[:2], before)
    assert 0.02 < float(rows.values[2:].std()) < 0.3


def test_a_step_moves_only_the_rows_lent_and_moves_them_as_adam_does() -> None:
    rows = ItemRows(3, 1.0)
    rows.add(np.arange(5), seed=1)
    before, slots = rows.values.clone(), torch.tensor([1, 3])
    reference = before[slots].clone().requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.1, betas=BETAS, eps=EPSILON)
    for _ in range(4):
        (rows.lend(slots) ** 3).sum().backward()
        rows.step(0.1)
        adam.zero_grad()
        (reference**3).sum().backward()
        adam.step()
    torch.testing.assert_close(rows.values[slots], reference.detach())
    assert torch.equal(rows.values[[0, 2, 4]], before[[0, 2, 4]])


def test_rows_lent_twice_in_a_step_move_by_both_gradients() -> None:
    rows, twice = ItemRows(2, 1.0), ItemRows(2, 1.0)
    for table in (rows, twice):
        table.add(np.arange(3), seed=1)
    both = rows.lend(torch.tensor([0, 1, 2]))
    (both * torch.tensor([[1.0], [3.0], [2.0]])).sum().backward()
    twice.lend(torch.tensor([0, 1])).sum().backward()
    (2 * twice.lend(torch.tensor([2, 1]))).sum().backward()
    rows.step(0.1)
    twice.step(0.1)
    assert torch.equal(rows.values, twice.values)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(CorruptState, match="width 4"):
        ItemRows(4, 0.1).load({"items": torch.arange(2), "values": torch.zeros(2, 3)})


def logits_case(n: int = 300, items: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    hidden = torch.randn(n, 8, dtype=torch.float64, requires_grad=True)
    table = torch.randn(items, 8, dtype=torch.float64, requires_grad=True)
    return hidden, table, torch.randint(items, (n,))


def test_full_softmax_and_its_gradients_are_those_of_cross_entropy() -> None:
    hidden, table, targets = logits_case()
    ours = torch.autograd.grad(full_softmax(hidden, table, targets), [hidden, table])
    reference = f.cross_entropy(hidden @ table.T, targets)
    torch.testing.assert_close(full_softmax(hidden, table, targets), reference)
    for mine, wanted in zip(ours, torch.autograd.grad(reference, [hidden, table]), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_sample_of_all_items_is_the_full_softmax() -> None:
    hidden, table, targets = logits_case()
    sample = Sampler(np.arange(40), 40, 0.7).draw(np.random.default_rng(0))
    assert len(sample.slots) == 40
    torch.testing.assert_close(sampled_softmax(hidden, table, targets, sample), full_softmax(hidden, table, targets))


def test_the_gradient_of_a_sample_agrees_with_its_definition() -> None:
    hidden, table, targets = logits_case(5)
    sample = Sample(torch.tensor([0, 3, 7]), torch.tensor([0.0, 0.5, 1.5], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda h, t: sampled_softmax(h, t, targets, sample), [hidden, table])
    weight = torch.zeros(40, dtype=torch.float64)
    weight[sample.slots] = sample.log_weights.exp()
    weights = weight.repeat(5, 1).scatter(1, targets[:, None], 1.0)
    logits = hidden @ table.T
    wanted = ((logits.exp() * weights).sum(1).log() - logits.gather(1, targets[:, None])[:, 0]).mean()
    torch.testing.assert_close(sampled_softmax(hidden, table, targets, sample), wanted)


def test_the_expected_gradient_of_a_sample_is_within_three_percent_of_the_full_one() -> None:
    hidden, table, targets = logits_case(50, 400)
    table = (table / 2).detach().requires_grad_()
    wanted = torch.autograd.grad(full_softmax(hidden, table, targets), table)[0]
    sampler, random = Sampler(np.arange(400), 150, 0.5), np.random.default_rng(0)
    total = torch.zeros_like(table)
    for _ in range(2000):
        loss = sampled_softmax(hidden, table, targets, sampler.draw(random))
        total += torch.autograd.grad(loss, table)[0]
    assert float((total / 2000 - wanted).norm() / wanted.norm()) < 0.03


def test_without_the_correction_the_expected_gradient_is_another() -> None:
    hidden, table, targets = logits_case(50, 400)
    wanted = torch.autograd.grad(full_softmax(hidden, table, targets), table)[0]
    sampler, random = Sampler(np.arange(400), 150, 0.5), np.random.default_rng(0)
    total = torch.zeros_like(table)
    for _ in range(200):
        drawn = sampler.draw(random)
        loss = sampled_softmax(hidden, table, targets, Sample(drawn.slots, torch.zeros_like(drawn.log_weights)))
        total += torch.autograd.grad(loss, table)[0]
    assert float((total / 200 - wanted).norm() / wanted.norm()) > 0.1


def test_samples_have_the_size_and_the_shares_asked_for() -> None:
    sampler = Sampler(np.array([0, 3, 8, 99]), 2, 0.5)
    assert sampler.probability.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2, 1.0])
    drawn = [sampler.draw(np.random.default_rng(seed)) for seed in range(3000)]
    share = np.bincount(np.concatenate([d.slots.numpy() for d in drawn]), minlength=4) / 3000
    assert share == pytest.approx(sampler.probability, abs=0.04)
    assert float(drawn[0].log_weights.exp()[-1]) == 1.0


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        Sampler(np.ones(3), 0, 1.0)


def test_bfloat16_products_stay_near_the_loss_and_the_gradient() -> None:
    hidden, table, targets = (part.float() if part.is_floating_point() else part for part in logits_case())
    hidden, table = hidden.detach().requires_grad_(), table.detach().requires_grad_()
    found = [full_softmax(hidden, table, targets, half) for half in (True, False)]
    assert found[0].item() == pytest.approx(found[1].item(), rel=2e-3)
    near, wanted = (torch.autograd.grad(loss, hidden)[0] for loss in found)
    assert float((near - wanted).norm() / wanted.norm()) < 0.02


def test_ranks_are_those_of_sorting() -> None:
    scores, targets = torch.randn(200, 30), torch.randint(30, (200,))
    above, tied = counts(scores, targets)
    order = torch.argsort(scores, dim=1, descending=True)
    assert above.tolist() == torch.nonzero(order == targets[:, None])[:, 1].tolist()
    assert not tied.any()


def test_tied_items_count_as_the_mean_over_all_their_orders() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]])
    above, tied = counts(scores, torch.tensor([2]))
    assert (above.tolist(), tied.tolist()) == ([1], [2])
    found = scored(above, tied, top=3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.mrr == pytest.approx((1 / 2 + 1 / 3) / 3)


def test_a_model_that_scores_all_alike_gets_what_guessing_gets() -> None:
    found = scored(*counts(torch.zeros(4, 100), torch.arange(4)))
    assert found.recall == pytest.approx(0.2)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="finite"):
        counts(torch.tensor([[1.0, float("nan")]]), torch.tensor([1]))
