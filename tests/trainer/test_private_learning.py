"""Private learning: what moves, what it costs, and what stays when the trainer is killed or goes back."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from services.common.errors import InvalidInput
from services.common.ids import keys_of
from services.trainer.control import Control
from services.trainer.examples import Batch
from services.trainer.privacy import accountant, config
from services.trainer.privacy.ledger import NAME, Entry, Ledger
from services.trainer.privacy.mechanism import RoundSum, noise_source
from tests.trainer.arm import digest, run
from tests.trainer.privately import (
    chosen,
    epsilon_of,
    gone,
    items_file,
    opened,
    private,
    public,
    rounds_of,
    started,
    strategy,
    until,
    with_other_features,
)
from tests.trainer.strategies.shop import learned, learner
from tests.trainer.world import FileSource, Shop

# Learning


def test_a_shopper_changes_the_sum_by_no_more_than_the_clip_norm(tmp_path: Path) -> None:
    made = private(tmp_path, "private(100, 1e-6, 2, 0.3, 4, 1000)")
    learned(made, Shop(users=8, items=20), 40)
    found = strategy(made)
    whole, everybody = found.total(made.encode), dict(found.round._kept)
    for user, mine in everybody.items():
        found.round._kept = {other: theirs for other, theirs in everybody.items() if other != user}
        without = found.total(made.encode)
        change = math.hypot(np.linalg.norm(whole.dense - without.dense), np.linalg.norm(whole.rows - without.rows))
        found.round._kept = {user: mine}
        assert change <= 0.3 * (1 + 1e-9)
        assert change == pytest.approx(0.3)  # all are clipped here: the bound is reached
        groups = found.round.shoppers()[0][1]
        assert found.contribution(user, groups, made.encode).length > 0.3


def test_who_knows_all_but_one_bit_tells_it_as_well_as_theory_says_and_no_better(tmp_path: Path) -> None:
    made = private(tmp_path, "private(100, 1e-6, 2, 0.3, 4, 1000)")
    learned(made, Shop(users=8, items=20), 40)
    found, scores = strategy(made), []
    with_one = found.total(made.encode)
    found.round.forget("user-3", 2**62)
    without = found.total(made.encode)
    dense, rows = with_one.dense - without.dense, with_one.rows - without.rows
    for trial in range(1_500):
        noise = RoundSum(len(dense), without.slots, rows.shape[1])
        noise.add_noise(noise_source(trial.to_bytes(32, "big"), 1, ""), 2 * 0.3)
        scores.append(float(noise.dense @ dense + np.sum(noise.rows * rows)))
    out, there = np.array(scores[::2]), np.array(scores[1::2]) + 0.3**2
    # Two normal scores whose means are 1 / sigma deviations apart.
    assert np.mean(there[:, None] > out) == pytest.approx(norm.cdf(1 / (2 * math.sqrt(2))), abs=0.04)


def test_a_sum_without_clipping_is_the_gradient_of_the_loss(tmp_path: Path) -> None:
    made = private(tmp_path, "private(100, 1e-6, 2, 10000, 100, 1000)")
    shop = Shop(users=8, items=20)
    shown = shop.messages(30)
    made.apply(Batch({0: (0, 30)}, {0: shown}))
    found, total = strategy(made), strategy(made).total(made.encode)
    groups = [made.encode(es) for _, kinds in found.round.shoppers() for es in kinds]
    found._dense.zero()
    loss = sum(found.loss(found.ranker.logits(g.tensors(found._device)), g) for g in groups)
    loss.backward()  # type: ignore[union-attr]
    np.testing.assert_allclose(total.dense, found._dense.gradient.numpy(), atol=1e-4)


def test_only_items_of_the_list_have_rows_and_all_of_them_move(tmp_path: Path) -> None:
    made = private(tmp_path, "private(100, 1e-6, 2, 1, 4, 5)", privacy_items=items_file(tmp_path, 100))
    assert len(made.tables.item) == 100
    learned(made, Shop(users=8, items=40), 30)
    table = made.tables.item
    assert strategy(made).rounds > 0
    assert len(table) == 100
    assert (table.rows[table.find(keys_of(f"item-{k}" for k in range(100)))] != 0).all()
    short = private(tmp_path, privacy_items=items_file(tmp_path, 7))
    learned(short, Shop(users=8, items=40), 30)
    assert len(short.tables.item) == 7
    assert (short.tables.item.find(keys_of(f"item-{k}" for k in range(7, 40))) < 0).all()


def test_until_a_round_is_full_nothing_moves_but_shoppers_rows(tmp_path: Path) -> None:
    made = private(tmp_path, "private(100, 1e-6, 2, 1, 4, 9)")
    before, shop = public(made), Shop(users=8)
    learned(made, shop, 60)
    assert np.array_equal(public(made), before)
    assert len(made.tables.user) == 8
    assert made.tables.user.rows.any()


def test_a_round_moves_weights_and_rows_but_no_statistics_and_no_retrieval(tmp_path: Path) -> None:
    made = private(tmp_path)
    towers = [value.clone() for value in made.strategy.towers.state_dict().values()]
    dense = strategy(made)._dense.flat.clone()
    learned(made, Shop(users=8), 60)
    assert (strategy(made)._dense.flat != dense).all()
    assert all((a == b).all() for a, b in zip(towers, made.strategy.towers.state_dict().values(), strict=True))
    blocks = [*made.strategy.ranker.user_numeric.blocks, *made.strategy.ranker.item_numeric.blocks]
    assert all(not b.center.any() and (b.scale == 1).all() and not b.seen.any() for b in blocks)


def test_what_is_in_a_shoppers_examples_reaches_no_other_row_before_the_round_ends(tmp_path: Path) -> None:
    log, rows = Shop(users=6).messages(60), []
    for messages in (log, [with_other_features(message, "user-3") for message in log]):
        made = private(tmp_path, "private(100, 1e-6, 2, 1, 4, 7)")
        made.apply(Batch({0: (0, 60)}, {0: messages}))
        rows.append({f"user-{k}": made.tables.users([f"user-{k}"])[0] for k in range(6)})
    assert {user for user in rows[0] if not np.array_equal(rows[0][user], rows[1][user])} == {"user-3"}


def test_learning_stops_before_the_budget_is_passed(tmp_path: Path) -> None:
    made = private(tmp_path, "private(4, 1e-6, 3, 1, 4, 5)")
    most = accountant.rounds_within(strategy(made).privacy)
    shop, told = Shop(users=8), 0.0
    while not strategy(made).stopped:
        before = strategy(made).rounds
        (*_, last) = made.apply(Batch({0: (shop.made, shop.made + 5)}, {0: shop.messages(5)}))
        assert last.epsilon == accountant.epsilon(strategy(made).ledger.spent, 1e-6) <= 4
        assert strategy(made).rounds - before <= 5
        told = last.epsilon
    assert strategy(made).rounds == most > 1
    frozen, users = public(made), made.tables.user.rows.copy()
    learned(made, shop, 60)
    assert (strategy(made).rounds, strategy(made).epsilon) == (most, told)
    assert np.array_equal(public(made), frozen)
    assert not np.array_equal(made.tables.user.rows, users)


def test_more_budget_lets_it_go_on_from_what_was_spent(tmp_path: Path) -> None:
    made, shop = private(tmp_path, "private(4, 1e-6, 3, 1, 4, 5)"), Shop(users=8)
    learned(made, shop, 60)
    more = private(tmp_path, "private(6, 1e-6, 6, 1, 4, 5)")
    more.strategy.load(made.strategy.state())
    assert strategy(more).epsilon == strategy(made).epsilon > 0
    learned(more, shop, 60)
    assert strategy(made).epsilon < strategy(more).epsilon <= 6
    assert set(strategy(more).ledger.spent) == {3.0, 6.0}


# Restarts


def test_after_a_kill_weights_and_epsilon_are_those_of_the_undisturbed(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9, items=20, listed=6).messages(60)})
    whole, twice = started(tmp_path, source)
    loop, clock = opened(whole, source, chosen(whole))
    run(loop, clock, source)
    for stop in (20, 45):
        source.seek({})
        first, clock = opened(twice, source, chosen(twice))
        until(first, clock, stop)
        gone(first)
    last, clock = opened(twice, source, chosen(twice))
    run(last, clock, source)
    assert digest(last.arm.learner) == digest(loop.arm.learner)
    assert epsilon_of(last) == pytest.approx(epsilon_of(loop), abs=1e-9)
    assert epsilon_of(loop) > 0
    assert [(f / "arms/main" / NAME).read_bytes().count(b"\n") for f in (whole, twice)] == [rounds_of(loop)] * 2


def test_killed_between_paying_and_learning_it_repeats_the_same_round_for_free(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9, items=20, listed=6).messages(60)})
    whole, twice = started(tmp_path, source)
    loop, clock = opened(whole, source, chosen(whole))
    run(loop, clock, source)
    source.seek({})
    first, clock = opened(twice, source, chosen(twice))
    strategy(first.arm.learner).ledger = DiesAfterWriting(twice / "arms/main" / NAME)
    with pytest.raises(KeyboardInterrupt):
        until(first, clock, 60)
    gone(first)
    assert rounds_of(first) == len(Ledger(twice / "arms/main" / NAME)._rounds) == 3
    last, clock = opened(twice, source, chosen(twice))
    run(last, clock, source)
    assert digest(last.arm.learner) == digest(loop.arm.learner)
    assert epsilon_of(last) == epsilon_of(loop)


def test_going_back_refunds_nothing(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9).messages(60)})
    loop, clock = opened(tmp_path, source, chosen(tmp_path))
    run(loop, clock, source)
    spent, rounds = epsilon_of(loop), rounds_of(loop)
    loop.arm.begin(Control(epoch=2, lineage=2, from_checkpoint="1-1"))
    assert (epsilon_of(loop), rounds_of(loop)) == (spent, 0)
    source._sizes = (5,)  # other cuts give other sums: releases of their own
    run(loop, clock, source)
    assert epsilon_of(loop) > spent
    assert strategy(loop.arm.learner).ledger.spent[2.0] > rounds


def test_going_back_to_learn_the_same_again_costs_nothing_and_gives_the_same(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9).messages(60)})
    loop, clock = opened(tmp_path, source, chosen(tmp_path))
    run(loop, clock, source)
    spent, weights = epsilon_of(loop), public(loop.arm.learner)
    loop.arm.begin(Control(epoch=2, lineage=2, from_checkpoint="1-1"))
    run(loop, clock, source)
    assert epsilon_of(loop) == spent
    assert np.array_equal(public(loop.arm.learner), weights)


def test_going_back_with_nothing_left_learns_nothing_new(tmp_path: Path) -> None:
    source = FileSource({0: Shop(seed=5, users=9).messages(80)})
    tight = chosen(tmp_path, "private(3, 1e-6, 3, 1, 4, 5)")
    loop, clock = opened(tmp_path, source, tight)
    run(loop, clock, source)
    assert strategy(loop.arm.learner).stopped
    loop.arm.begin(Control(epoch=2, lineage=2, from_checkpoint="1-1"))
    before, source._sizes = public(loop.arm.learner), (5,)
    run(loop, clock, source)
    assert np.array_equal(public(loop.arm.learner), before)
    assert strategy(loop.arm.learner).stopped


# Settings


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("labels", {"labels": "waiting"}),
        ("accumulate", {"accumulate": 2}),
        ("hold_out", {"hold_out": 0.1}),
        ("strategy", {"strategy": "layers(top), replay(9)"}),
        ("privacy_items", {"privacy_items": None}),
        ("privacy_items", {"privacy_items": Path("nowhere.txt")}),
    ],
)
def test_what_breaks_the_promise_is_refused_by_name(field: str, changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        private(tmp_path, **changes)
    assert refused.value.field == field


def test_more_items_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1001 items"):
        private(tmp_path, max_rows=1_000, privacy_items=items_file(tmp_path, 1_001))


@pytest.mark.parametrize("text", [f"{name}()" for name in config.FITTING])
def test_parts_that_read_noise_alone_go_with_it(text: str, tmp_path: Path) -> None:
    made, shop = private(tmp_path, strategy=text), Shop(users=8)
    learned(made, shop, 30)
    made.released()
    learned(made, shop, 30)
    assert np.isfinite(public(made)).all()


def test_privacy_begins_with_an_arm_and_ends_with_it(tmp_path: Path) -> None:
    plain = learner()
    with pytest.raises(InvalidInput, match="another arm"):
        private(tmp_path).strategy.load(plain.strategy.state())
    learned(private(tmp_path), Shop(users=8), 60)
    with pytest.raises(InvalidInput, match="another arm"):
        learner(store=tmp_path)


class DiesAfterWriting(Ledger):
    """The third round is paid, and then the process is gone."""

    def write(self, entry: Entry) -> None:
        super().write(entry)
        if entry.number == 3:
            raise KeyboardInterrupt
