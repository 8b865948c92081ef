"""Parts of a strategy: what defines each technique."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.common import records
from services.common.ids import share_of
from services.trainer.examples import Batch, Example
from services.trainer.groups import Group
from services.trainer.learner import Learner
from services.trainer.strategies import expression
from services.trainer.strategies.adapters import AdaptiveRank, LowRank
from services.trainer.strategies.adaptive import DriftStep
from services.trainer.strategies.anchors import ChosenFusion, ElasticWeights
from services.trainer.strategies.base import Learned, Update
from services.trainer.strategies.online import OnlineStrategy
from services.trainer.strategies.parts import Moment, Seen
from services.trainer.strategies.replay import Replay
from tests.trainer.strategies.shop import (
    ends_alike_after_a_restart,
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

EVERY = [
    "replay(50, 0.5)",
    "distillation()",
    "ewc(100)",
    "fusion(0.5)",
    "fusion_chosen()",
    "epochs(2, 2)",
    "augmentation(mask)",
    "thaw(60)",
    "layers(top)",
    "lora(1)",
    "adalora(1, 0.5)",
    "hypergradient()",
    "drift_step()",
    "adversarial()",
    "co_clicks()",
    "pseudo_labels()",
]


def test_every_part_is_tried_here() -> None:
    assert {text.partition("(")[0] for text in EVERY} == set(expression.PARTS)


@pytest.mark.parametrize("text", EVERY)
def test_a_restart_in_the_middle_changes_no_bit(text: str, tmp_path: Path) -> None:
    assert ends_alike_after_a_restart(tmp_path, strategy=text, hold_out=0.1)


@pytest.mark.parametrize("changes", [{"accumulate": 3}, {"labels": "waiting"}, {"loss": "focal(2)"}])
def test_other_settings_survive_a_restart_too(changes: dict[str, object], tmp_path: Path) -> None:
    assert ends_alike_after_a_restart(tmp_path, **changes)


@pytest.mark.parametrize("text", EVERY)
def test_it_learns(text: str) -> None:
    made, shop = learner(strategy=text), Shop(items=20)
    for _ in range(2):
        learned(made, shop, 120)
        made.released()
    made.progress._window.clear()
    learned(made, shop, 80)
    assert made.progress.metrics()["auc"] > 0.6


@pytest.mark.parametrize("text", ["replay(9)", "ewc(100), replay(9)", "adalora()", ""])
def test_a_strategy_may_change_at_a_restart_and_keeps_the_weights(text: str) -> None:
    made, shop = learner(strategy="ewc(100), lora(1)"), Shop()
    learned(made, shop, 40)
    made.released()
    learned(made, shop, 10)
    other = learner(strategy=text, optimiser="ftrl")
    meta, files = made.snapshot()
    other.restore(meta, files, [made.pack_rows(lambda table: np.arange(table.next))])
    torch.testing.assert_close(weights(other), weights(made), atol=0, rtol=0)
    learned(other, shop, 40)
    assert not torch.equal(weights(other), weights(made))


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


def test_early_stopping_goes_back_to_the_best_weights_and_rows() -> None:
    """So many epochs over few impressions that the held-out loss must rise."""
    made, shop = (
        learner(labels="at_release", strategy="epochs(60, 3)", hold_out=0.4, learning_rate=0.05),
        Shop(items=20),
    )
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


def test_the_rate_grows_while_gradients_agree() -> None:
    made = learner(strategy="hypergradient(0.1, 4)")
    adaptive, dense = part(made), strategy(made)._dense
    for slope, expected in ((1.0, 1.0), (1.0, 1.105), (-1.0, 1.0), (1.0, 0.905)):
        dense.gradient.fill_(slope)
        adaptive.gradient(dense, 1)
        assert dense.scale == pytest.approx(expected, abs=1e-3)
    for _ in range(50):
        adaptive.gradient(dense, 1)
    assert dense.scale == pytest.approx(4.0)


def test_a_drift_lengthens_steps_for_a_while() -> None:
    made = learner(strategy="drift_step(5, 100)")
    drift, dense = part(made), strategy(made)._dense
    assert isinstance(drift, DriftStep)
    for loss in [0.2] * 400:
        drift._see(loss)
    drift.gradient(dense, 1)
    assert dense.scale == 1.0
    for loss in [0.6] * 200:
        drift._see(loss)
    assert drift.counters["drifts"] == 1
    drift.gradient(dense, 50)
    assert dense.scale == pytest.approx(3.0)
    drift.gradient(dense, 50)
    assert dense.scale == 1.0


def test_distillation_pulls_towards_the_teacher() -> None:
    made, shop = learner(strategy="distillation(1, 2)", learning_rate=0.03), Shop(items=20)
    step = step_of(shop.messages(20))
    group = made.encode(step.initial)
    teacher = np.full((*group.negatives.shape, 3), 0.6, np.float32)
    for number in range(1, 120):
        made.strategy.learn(Update([group], number, made.encode, [teacher]))
    logits = strategy(made).ranker.logits(group.tensors(torch.device("cpu"))).detach()
    known = torch.from_numpy(group.arrays["mask"] > 0)
    assert float(torch.sigmoid(logits)[known].mean()) == pytest.approx(0.6, abs=0.05)


def test_without_a_teacher_distillation_is_plain_learning() -> None:
    one, other = learner(strategy="distillation()"), learner()
    for made in (one, other):
        learned(made, Shop(), 20)
    assert torch.equal(weights(one), weights(other))


def test_co_clicked_rows_come_nearer() -> None:
    near, far = (_apart(learner(strategy=text)) for text in ("co_clicks(1)", ""))
    assert near < 0.7 * far


def _apart(made: Learner) -> float:
    learned(made, Shop(items=12), 200)
    table = made.tables.item
    rows = table.rows[: table.next][table.live[: table.next]]
    return float(np.square(rows[:, None] - rows[None]).sum(-1).mean())


def test_adversarial_rows_are_learned_on_their_worst_side() -> None:
    made = learner(strategy="adversarial(0.5, 1)")
    learned(made, Shop(), 50)
    group = made.encode(step_of(Shop().messages(10)).initial)
    engine = strategy(made)
    inputs = {n: v.requires_grad_() if n.endswith("row") else v for n, v in group.tensors(torch.device("cpu")).items()}
    logits = engine.ranker.logits(inputs)
    own = engine.loss(logits, group)
    term = part(made).term(Seen(group, inputs, logits, own, None, engine.ranker, engine.loss, np.random.default_rng(0)))
    assert term is not None
    assert float(term.detach()) > float(own.detach())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("replay(0)", "from 1 to 1e+06 as kept"),
        ("momentum()", "momentum is none of replay"),
        ("ewc(100), ewc(10)", "names a part twice"),
        ("layers(middle)", "one of top, biases, not middle"),
        ("lora(1, 2, 3, 4)", "lora takes 0 to 3 values, not 4"),
        ("__import__('os').system('x')", "is no call"),
    ],
)
def test_other_text_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="strategy\\n.*") as caught:
        learner(strategy=text)
    assert said in str(caught.value)
