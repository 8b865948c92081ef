"""Parts of a strategy: all of them through restarts, and what defines each technique."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.trainer.learner import Learner
from services.trainer.strategies import expression
from services.trainer.strategies.adaptive import DriftStep
from services.trainer.strategies.base import Update
from tests.trainer.strategies.shop import (
    ends_alike_after_a_restart,
    finished,
    learned,
    learner,
    part,
    seen,
    step_of,
    strategy,
    weights,
)
from tests.trainer.world import Shop

EVERY = [
    "replay(50, 0.5)",
    "distillation()",
    "ewc(100)",
    "proximal(0.01)",
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
    "pairwise()",
    "listwise()",
    "rare_items(1, 4)",
    "rare_labels(2, 4)",
    "virtual_clicks(40, 2)",
    "lightgcn(1)",
    "pseudo_labels()",
]


def test_every_part_is_tried_here() -> None:
    assert {text.partition("(")[0] for text in EVERY} == set(expression.PARTS)


@pytest.mark.parametrize("text", EVERY)
def test_a_restart_in_the_middle_changes_no_bit(text: str, tmp_path: Path) -> None:
    assert ends_alike_after_a_restart(tmp_path, strategy=text, hold_out=0.1)


OTHERS = [{"accumulate": 3}, {"labels": "waiting"}, {"loss": "focal(2)"}, {"precision": "bfloat16"}]


@pytest.mark.parametrize("changes", OTHERS)
def test_other_settings_survive_a_restart_too(changes: dict[str, object], tmp_path: Path) -> None:
    assert ends_alike_after_a_restart(tmp_path, **changes)


@pytest.mark.parametrize("model", ["din", "transformer", "dlrm"])
def test_products_in_bfloat16_learn_as_well_and_score_in_float32(model: str) -> None:
    found = []
    for precision in ("float32", "bfloat16"):
        made, shop = learner(model=model, precision=precision), Shop(items=20)
        learned(made, shop, 250)
        found.append((weights(made), made.progress.metrics()["auc"], made))
    (full, auc, _), (half, other, made) = found
    assert not torch.equal(full, half), "learned otherwise"
    assert full.dtype == half.dtype == torch.float32
    assert other == pytest.approx(auc, abs=0.03)
    group = made.encode(finished(Shop(items=20), 3))
    with torch.no_grad():
        logits = made.strategy.served.logits(group.tensors(torch.device("cpu")))
    assert not torch.equal(logits, logits.bfloat16().float()), "scores are not rounded"


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


def test_distillation_is_its_formula_with_the_square_of_the_temperature() -> None:
    made = learner(strategy="distillation(0.3, 4)")
    through = seen(made, made.encode(step_of(Shop().messages(5)).initial))
    teacher = np.random.default_rng(0).random((*through.group.negatives.shape, 3)).astype(np.float32)
    term = part(made).term(replace(through, teacher=teacher))
    assert term is not None
    (found,) = torch.autograd.grad(term + through.loss, [through.logits], retain_graph=True)
    z, t = through.logits.detach(), torch.logit(torch.from_numpy(teacher))
    shown = torch.from_numpy(through.group.negatives).unsqueeze(-1)
    soft = 16 * (torch.sigmoid(z / 4) - torch.sigmoid(t / 4)) / 4
    torch.testing.assert_close(found, shown * (0.7 * torch.sigmoid(z) + 0.3 * soft), rtol=1e-4, atol=1e-5)


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
    through = seen(made, made.encode(step_of(Shop().messages(10)).initial))
    term = part(made).term(through)
    assert term is not None
    assert float(term.detach()) > float(through.loss.detach())


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
