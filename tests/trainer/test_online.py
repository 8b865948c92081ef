"""Online learning: what an update does."""

import numpy as np
import pytest
import torch
from freshrank.v1.events_pb2 import Impression

from services.common.records import FLIP, FORGET, INITIAL
from services.trainer.examples import Batch, Reader, Step, StepSize
from services.trainer.factory import learner_of
from services.trainer.groups import groups_of
from services.trainer.learner import Learner
from services.trainer.strategies.online import ROW_MASKS
from services.trainer.strategies.optimisers import DenseConfig, DenseOptimiser, rate_at
from services.trainer.strategies.rows import TouchedRows
from services.trainer.strategies.weights import WeightConfig, item_weights
from tests.trainer.arm import digest, settings
from tests.trainer.world import SPEC, Shop, message


def learner(**changes: object) -> Learner:
    return learner_of(settings(**changes), SPEC, None)


def batch(messages: list[bytes], start: int = 0) -> Batch:
    return Batch({0: (start, start + len(messages))}, {0: messages})


def step_of(messages: list[bytes], share: float = 1.0) -> Step:
    return next(Reader(StepSize(10**9), share).steps(batch(messages)))


@pytest.mark.parametrize(("listed", "impressions"), [(4, 15), (20, 5), (25, 5)])
def test_an_update_is_of_enough_impressions_and_of_enough_candidates(listed: int, impressions: int) -> None:
    shop = Shop(items=60, listed=listed)
    lists = [message(shop.rows(k)[:1]) for k in range(45)]
    steps = list(Reader(StepSize(5, 60)).steps(batch(lists)))
    assert [len(step.initial) for step in steps] == [impressions] * (45 // impressions)


def test_an_arm_may_learn_from_its_own_shoppers_only() -> None:
    shop, messages = Shop(), []
    for k in range(20):
        rows = shop.rows(k)
        for row in rows:
            whose = Impression.FromString(row["impression"])
            whose.arm = "gentle" if k % 4 == 0 else "main"
            row["impression"] = whose.SerializeToString()
        messages.append(message(rows))
    messages.append(message([{**shop.rows(20)[0], "kind": FORGET, "user": "user-1"}]))
    own = learner(arm="gentle", traffic="own").reader.steps(batch(messages))
    shared = learner(arm="gentle").reader.steps(batch(messages))
    sizes = [[len(part) for step in steps for part in (step.initial, step.forgets)] for steps in (own, shared)]
    assert [(sum(found[::2]), sum(found[1::2])) for found in sizes] == [(5, 1), (20, 1)]


def gradients(made: Learner, step: Step) -> torch.Tensor:
    """Of the summed loss of a step, without chance."""
    ranker = made.strategy.ranker
    ranker.zero_grad(set_to_none=False)
    total = torch.zeros(())
    for group in groups_of(step, SPEC, made.tables, WeightConfig()):
        total = total + made.strategy.loss(ranker.logits(group.tensors(torch.device("cpu"))), group)
    total.backward()
    return torch.cat([p.grad.reshape(-1) for p in ranker.parameters() if p.grad is not None]).clone()


def test_what_appears_and_what_flips_sum_to_the_full_label() -> None:
    made, shop = learner(), Shop()
    step = step_of(shop.messages(30))
    streamed = gradients(made, step)
    ranker = made.strategy.ranker
    ranker.zero_grad(set_to_none=False)
    total = torch.zeros(())
    for group in groups_of(Step(initial=step.initial), SPEC, made.tables, WeightConfig()):
        labels = torch.zeros(group.positives.shape)
        by_id = {example.impression_id: k for k, example in enumerate(group.examples)}
        for flip in step.flips:
            row = by_id[flip.impression_id]
            names = [item.item_id for item in group.examples[row].impression.items]
            labels[row, names.index(flip.impression.items[0].item_id), 0] = 1
        logits = ranker.logits(group.tensors(torch.device("cpu")))
        total = total + torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    total.backward()
    full = torch.cat([p.grad.reshape(-1) for p in ranker.parameters() if p.grad is not None])
    assert len(step.flips) > 5
    torch.testing.assert_close(streamed, full, atol=1e-3, rtol=1e-4)


def test_clicks_are_learned() -> None:
    made, shop = learner(), Shop(items=20)
    for start in range(0, 600, 5):
        made.apply(batch(shop.messages(5), start))
    made.progress._window.clear()
    made.apply(batch(shop.messages(150), 600))
    figures = made.progress.metrics()
    assert figures["auc"] > 0.75
    assert figures["predicted_ctr"] == pytest.approx(figures["ctr"], rel=0.25)


def test_weight_zero_trains_nothing_and_is_not_judged() -> None:
    shop = Shop()
    made = learner(admission=1)
    made.apply(batch([message([r | {"weights": [1.0] * len(r["items"])} for r in shop.rows(0)])]))
    before = {k: v.clone() for k, v in made.strategy.state().items() if "numeric" not in k and k.startswith("ranker:")}
    rows = [r | {"weights": [0.0] * len(r["items"])} for r in shop.rows(1)]  # type: ignore[arg-type]
    judged = made.progress.metrics()["impressions"]
    made.tables.item.changed()
    made.apply(batch([message(rows)], 1))
    decay = 1e-6 * 0.05
    for name, value in made.strategy.state().items():
        if name in before and value.is_floating_point():
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=2 * decay)
    assert made.tables.item.changed()[0] == []
    assert made.progress.metrics()["impressions"] == judged


def test_a_repeated_message_changes_nothing() -> None:
    made, messages = learner(), Shop().messages(10)
    made.apply(batch(messages))
    before = digest(made)
    made.apply(Batch({0: (0, 10)}, {0: messages}))
    assert digest(made) == before
    assert made.reader.repeated > 10


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    shop, made = Shop(), learner()
    good = shop.rows(0)
    bad = [
        shop.rows(1)[0] | {"impression": b"\xff\xff"},
        shop.rows(2)[0] | {"items": [0, 99], "labels": [0, 0], "weights": [1.0, 1.0]},
    ]
    made.apply(batch([b"nonsense", message(bad), message([r | {"src_offset": 9} for r in good])]))
    assert made.reader.unreadable == 3
    assert made.learned == sum(row["kind"] in (INITIAL, FLIP) for row in good)


def test_an_update_that_is_not_finite_is_given_up() -> None:
    made, shop = learner(), Shop()
    made.apply(batch(shop.messages(5)))
    state = {k: v.clone() for k, v in made.strategy.state().items() if ":" in k and "numeric" not in k}
    rows = [r | {"weights": [float("inf")] * len(r["items"])} for r in shop.rows(5)]  # type: ignore[arg-type]
    learned = made.apply(batch([message(rows)], 5))
    assert [step.skipped for step in learned] == [True]
    for name, value in made.strategy.state().items():
        if name in state and name.startswith(("ranker:", "ranker_memory:")):
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_a_share_of_the_shoppers_is_weighted_back() -> None:
    shop = Shop(users=200)
    messages = shop.messages(200)
    whole, part = step_of(messages), step_of(messages, share=0.5)
    users = {example.user for example in part.initial}
    assert 0.3 < len(part.initial) / len(whole.initial) < 0.7
    assert {float(w) for example in part.initial for w in example.weights} == {2.0}
    assert {e.impression_id for e in whole.initial if e.user in users} == {e.impression_id for e in part.initial}


def test_hidden_rows_are_as_many_as_set() -> None:
    made = learner(row_dropout=0.5, admission=1)
    step = step_of(Shop().messages(60))
    groups = groups_of(step, SPEC, made.tables, WeightConfig())
    strategy = made.strategy
    items = TouchedRows.of(made.tables.item, [group.item_slots for group in groups], torch.device("cpu"))
    users = TouchedRows.of(made.tables.user, [group.user_slots for group in groups], torch.device("cpu"))
    kept = strategy._kept({name: groups[0].arrays[name].shape for name in ROW_MASKS}, np.random.default_rng(0))
    inputs = strategy._inputs(groups[0], items.values, items.places[0], users.values, users.places[0], kept)
    assert 0.4 < float(inputs["row_mask"].mean()) / float(groups[0].arrays["row_mask"].mean()) < 0.6


def test_a_forgotten_shopper_has_no_row() -> None:
    made, shop = learner(admission=1), Shop(users=3)
    made.apply(batch(shop.messages(20)))
    assert made.tables.users(["user-1"])[1].tolist() == [1]
    made.tables.user.changed()
    forget = shop.rows(20)[0] | {"kind": 102, "user": "user-1", "items": [], "labels": [], "weights": []}
    made.apply(batch([message([forget])], 20))
    assert made.tables.users(["user-1"])[1].tolist() == [0]
    ids, rows = made.tables.user.changed()
    assert ids == ["user-1"]
    assert not rows.any()


def test_a_shopper_forgotten_in_the_step_that_learns_from_them_keeps_no_row() -> None:
    made, shop = learner(admission=1), Shop(users=1)
    made.apply(batch(shop.messages(5)))
    made.tables.user.changed()
    rows = shop.rows(5)
    forget = rows[0] | {"kind": 102, "src_index": 200, "items": [], "labels": [], "weights": []}
    made.apply(batch([message([*rows, forget])], 5))
    ids, changed = made.tables.user.changed()
    assert ids == ["user-0"]
    assert not changed.any()


def test_only_flips_are_weighted_by_place() -> None:
    items = list(Shop().impression()[0].items)[:3]
    ones = np.ones(3, np.float32)
    config = WeightConfig(position_power=1.0, position_clip=2.5)
    assert item_weights(items, ones, config, flips=True).tolist() == [1, 2, 2.5]
    assert item_weights(items, ones, config, flips=False).tolist() == [1, 1, 1]


def test_explored_items_count_more_up_to_a_bound() -> None:
    items = list(Shop().impression()[0].items)[:3]
    items[1].propensity, items[2].propensity = 0.5, 0.001
    config = WeightConfig(propensity_clip=4)
    assert item_weights(items, np.ones(3, np.float32), config, flips=False).tolist() == [1, 2, 4]
    items[2].shown = False  # what was not shown says how likely it was to be, and was not drawn by that
    assert item_weights(items, np.ones(3, np.float32), config, flips=False).tolist() == [1, 2, 1]


@pytest.mark.parametrize("optimiser", ["adagrad", "adam"])
def test_dense_optimisers_are_those_of_torch(optimiser: str) -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    config = DenseConfig(optimiser=optimiser, rate=0.1, warmup=0, decay=0, clip=0)  # type: ignore[arg-type]
    mine = DenseOptimiser(ours, config)
    other = (
        torch.optim.Adagrad(theirs.parameters(), 0.1, initial_accumulator_value=config.first)
        if optimiser == "adagrad"
        else torch.optim.Adam(theirs.parameters(), 0.1, betas=(0.9, 0.99))
    )
    for _ in range(20):
        x = torch.randn(4, 5)
        mine.zero()
        ours(x).square().sum().backward()
        mine.step()
        other.zero_grad()
        theirs(x).square().sum().backward()
        other.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-5, rtol=1e-5)


def test_rates_rise_and_fall_as_set() -> None:
    falling = DenseConfig(schedule="inverse_sqrt", warmup=100)
    assert rate_at(falling, 99) == 1
    assert rate_at(falling, 399) == pytest.approx(0.5)
    assert rate_at(DenseConfig(warmup=0), 0) == 1


def test_retrieval_finds_what_is_clicked() -> None:
    made, shop = learner(), Shop(items=12, users=4)
    for start in range(0, 500, 5):
        made.apply(batch(shop.messages(5), start))
    towers = made.strategy.towers
    step = step_of(shop.messages(60))
    (group, _) = groups_of(step, SPEC, made.tables, WeightConfig())
    x = group.tensors(torch.device("cpu"))
    with torch.no_grad():
        history = towers.items(x["history_content"], x["history_row"] * x["history_row_mask"])
        shoppers = towers.shoppers(x["user_row"] * x["user_row_mask"], history, x["history_mask"])
        items = towers.items(x["content"], x["row"] * x["row_mask"])
        score = torch.einsum("br,bnr->bn", shoppers, items).numpy()
    names = [[item.item_id for item in example.impression.items] for example in group.examples]
    taste = np.array([[shop.taste[int(name.split("-")[1])] for name in row] for row in names])
    assert np.corrcoef(score.ravel(), taste.ravel())[0, 1] > 0.3
