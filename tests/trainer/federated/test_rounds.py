"""Rounds of a federation: what they are equal to, what they average, who may be missing, how they go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.common.clock import ManualClock, WallClock
from services.common.errors import InvalidInput, TemporaryError
from services.common.ids import keys_of
from services.trainer.archive import ArchiveSource
from services.trainer.checkpoint import Checkpoints
from services.trainer.factory import learner_of
from services.trainer.federated import exchange
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.model import Answer, averaged
from services.trainer.federated.rounds import Ended, Plan, federate, learned
from services.trainer.federated.shop import BATCH, Place, Shop, online_of
from services.trainer.hooks import NoHooks
from services.trainer.learner import Learner
from tests.trainer.arm import digest
from tests.trainer.federated.shops import chosen, coordinator, grid_of, place
from tests.trainer.world import SPEC

PLAN = Plan(rounds=3, messages=20)


def newest(where: Place) -> Learner:
    """What a shop has learned, from its newest checkpoint."""
    settings = where.settings
    saved = Checkpoints(settings.store / "arms" / settings.arm / "checkpoints", NoHooks()).newest()
    assert saved is not None
    made = learner_of(settings, SPEC, saved.meta["blocks"])
    made.restore(saved.meta, saved.files, saved.rows)
    return made


def alone(where: Place, rounds: int = 3, messages: int = 20) -> Learner:
    """The same examples learned by the shop by itself, with a release when a round would end."""
    torch.set_num_threads(1)
    source, made = ArchiveSource(where.examples, BATCH), learner_of(where.settings, SPEC, None)
    for _ in range(rounds):
        for _ in range(messages // BATCH):
            batch = source.poll()
            assert batch is not None
            made.apply(batch)
        made.released()
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": "ftrl"},
        {"optimiser": "sgd", "learning_rate": 0.01},
        {"strategy": "replay(20, 0.5), ewc(10), fusion(0.5)"},
        {"strategy": "proximal(0.1)"},
        {"labels": "waiting", "accumulate": 3},
        {"model": "logistic"},
    ],
    ids=str,
)
def test_federated_averaging_of_one_shop_is_local_learning(tmp_path: Path, changes: dict[str, object]) -> None:
    where = place(tmp_path, "one", 1, **changes)
    middle = coordinator(tmp_path, **changes)
    federate(grid_of(where), middle, PLAN, ManualClock())
    local = alone(where)
    assert digest(newest(where)) == digest(local)
    for name, value in exchange.weights_of(online_of(local)).items():
        np.testing.assert_array_equal(middle.weights[name], value)
    ours, theirs = middle.learner.tables.item, local.tables.item
    slots = theirs.find(keys_of(middle.items.ids))
    np.testing.assert_array_equal(middle.items.rows, theirs.rows[slots])
    np.testing.assert_array_equal(middle.items.squares, theirs.squares[slots])
    assert len(ours) == len(theirs) == 20


def test_a_round_is_the_mean_of_weights_by_examples_and_of_rows_by_touches(tmp_path: Path) -> None:
    places = [place(tmp_path, "one", 1), place(tmp_path, "two", 2, messages=10)]
    middle = coordinator(tmp_path)
    shops = [Shop(where) for where in places]
    assert not any(middle.refused(shop.show()) for shop in shops)
    asked = middle.asked(20)
    first, second = (shop.learn(asked) for shop in shops)
    assert first.examples > second.examples > 0
    middle.take([second, first])
    total = first.examples + second.examples
    for name, value in middle.weights.items():
        mean = (first.examples * first.weights[name] + second.examples * second.weights[name]) / total
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-7)
    for name, row in zip(middle.items.ids, middle.items.rows, strict=True):
        found = [(a.items.rows[k], a.items.touched[k]) for a in (first, second) for k in where(a, name)]
        mean = sum(row * n for row, n in found) / sum(n for _, n in found)
        np.testing.assert_allclose(row, mean, rtol=1e-5, atol=1e-7)


def where(answer: Answer, name: str) -> list[int]:
    return [k for k, other in enumerate(answer.items.ids) if other == name]


def test_a_servers_rate_goes_further_along_what_the_shops_moved(tmp_path: Path) -> None:
    plain, fast = coordinator(tmp_path / "plain"), Coordinator(chosen(tmp_path / "fast"), rate=2.0)
    places = [place(tmp_path, "one", 1), place(tmp_path, "two", 2)]
    answers = list[Answer]()
    for middle in (plain, fast):
        assert not middle.refused(Shop(places[0]).show())
        answers = answers or [Shop(where).learn(middle.asked(20)) for where in places]
        before = middle.weights
        middle.take(answers)
        middle.take(answers)
    mean = averaged(before, answers)
    for name, value in fast.weights.items():
        np.testing.assert_allclose(plain.weights[name], mean[name], atol=1e-7)
        # Twice the way there, and from there twice the way back: where it began.
        np.testing.assert_allclose(value, before[name], atol=1e-6)
    rows = dict(zip(plain.items.ids, plain.items.rows, strict=True))
    for name, row in zip(fast.items.ids, fast.items.rows, strict=True):
        np.testing.assert_allclose(row, rows[name], atol=1e-6)


def test_an_item_that_one_shop_knows_keeps_its_row_and_reaches_the_others(tmp_path: Path) -> None:
    places = [place(tmp_path, "one", 1), place(tmp_path, "two", 2)]
    middle = coordinator(tmp_path)
    assert not middle.refused(Shop(places[0]).show())
    first, second = (Shop(where).learn(middle.asked(20)) for where in places)
    alone = replace(first.items, ids=[f"only-{name}" for name in first.items.ids])
    middle.take([replace(first, items=alone), second])
    kept = dict(zip(middle.items.ids, middle.items.rows, strict=True))
    for name, row in zip(alone.ids, alone.rows, strict=True):
        np.testing.assert_array_equal(kept[name], row)
    Shop(places[1]).learn(middle.asked(0))
    theirs = newest(places[1]).tables.item
    rows, masks = theirs.lookup(alone.ids)
    assert masks.all()
    np.testing.assert_array_equal(rows, alone.rows)


def test_nothing_of_a_shopper_leaves_a_shop(tmp_path: Path) -> None:
    where = place(tmp_path, "one", 1)
    middle = coordinator(tmp_path)
    federate(grid_of(where), middle, PLAN, ManualClock())
    answer = Shop(where).learn(middle.asked(20))
    assert not any(name.startswith("user") for name in answer.items.ids)
    assert len(newest(where).tables.user) > 0 == len(middle.learner.tables.user)
    local = newest(where)
    state = online_of(local).state()
    assert {name.partition(".")[0] for name in set(state) - set(answer.weights)} >= {"pool:content", "pool:keys"}
    private = ("seen", "sums", "center", "momentum", "squares")
    assert not any(part in name for name in answer.weights for part in private)


def test_fedprox_holds_a_shop_to_what_it_was_sent(tmp_path: Path) -> None:
    plain = {"optimiser": "sgd", "learning_rate": 0.003, "clip_norm": 0.0, "warmup_impressions": 0}
    changes: dict[str, object] = {**plain, "strategy": "proximal(20)"}
    shop, middle = Shop(place(tmp_path, "one", 1, **changes)), coordinator(tmp_path, **changes)
    assert not middle.refused(shop.show())
    asked = middle.asked(20)
    before = shop.learn(asked).weights
    sent = {name: value + 0.02 for name, value in before.items()}
    answer = shop.learn(replace(asked, round=2, weights=sent)).weights
    dense = [name for name in sent if name.startswith("ranker:")]
    away, here = (sum(float(np.abs(answer[n] - other[n]).sum()) for n in dense) for other in (before, sent))
    assert here < 0.2 * away


def test_nobody_learns_anything_from_nothing(tmp_path: Path) -> None:
    before = {"w": np.ones(3, np.float32)}
    where = place(tmp_path, "one", 1, messages=20)
    middle = coordinator(tmp_path)
    federate(grid_of(where), middle, Plan(rounds=2, messages=20), ManualClock())
    answer = Shop(where).learn(middle.asked(20))
    assert answer.examples == 0
    assert averaged(before, [replace(answer, weights={"w": np.zeros(3, np.float32)})]) is before


def test_a_round_goes_on_without_a_shop_that_is_gone_or_fails(tmp_path: Path) -> None:
    places = [place(tmp_path, name, seed) for seed, name in enumerate(("one", "two", "three"), 1)]
    grid, middle, seen = grid_of(*places), coordinator(tmp_path), list[Ended]()

    def watch(ended: Ended) -> None:
        seen.append(ended)
        if ended.round == 1:
            grid.leave(3)
            for path in places[2].examples.glob("*/*.parquet"):
                path.write_bytes(b"broken")

    federate(grid, middle, PLAN, ManualClock(), watch)
    assert [ended.answered for ended in seen] == [["one", "three", "two"], ["one"], ["one"]]
    assert seen[1].missing == ["three"]
    assert middle.round == 3


def test_too_few_shops_end_a_federation_with_a_sentence(tmp_path: Path) -> None:
    grid, middle = grid_of(place(tmp_path, "one", 1)), coordinator(tmp_path)
    with pytest.raises(TemporaryError, match="1 shops are there, 2 are needed"):
        federate(grid, middle, Plan(rounds=1, messages=20, least=2, wait_s=0.01), WallClock())


def test_a_shop_of_other_features_or_sizes_is_left_out(tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [{}, {"row_dim": 8}, {"retrieval_dim": 4}]
    places = [place(tmp_path, f"shop{seed}", seed, **change) for seed, change in enumerate(changes)]
    middle = coordinator(tmp_path)
    reasons = [middle.refused(Shop(where).show()) for where in places]
    assert reasons[0] == ""
    assert "row length" in reasons[1]
    assert "sizes" in reasons[2]


def test_private_learning_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="privacy"):
        Shop(place(tmp_path, "one", 1, privacy="private(8, 1e-6, 4)"))


def test_a_coordinator_goes_on_after_its_last_whole_round(tmp_path: Path) -> None:
    def places(folder: Path) -> list[Place]:
        return [place(folder, "one", 1), place(folder, "two", 2)]

    through = coordinator(tmp_path / "a")
    federate(grid_of(*places(tmp_path / "a")), through, PLAN, ManualClock())

    class Killed(Exception):
        pass

    def kill(ended: Ended) -> None:
        if ended.round == 2:
            raise Killed

    broken, grid = coordinator(tmp_path / "b"), grid_of(*places(tmp_path / "b"))
    with pytest.raises(Killed):
        federate(grid, broken, PLAN, ManualClock(), kill)
    # The shops had learned the next round when the coordinator went: they learn it again from what they had before.
    learned(grid, broken, [2, 3], PLAN)
    again = coordinator(tmp_path / "b")
    assert again.round == 2
    federate(grid, again, PLAN, ManualClock())
    for name, value in through.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    for one, other in zip(places(tmp_path / "a"), places(tmp_path / "b"), strict=True):
        assert digest(newest(one)) == digest(newest(other))
