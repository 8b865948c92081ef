"""Rows over the graph of actions: what is read and pushed is full propagation, at a price that the touched set sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.common.ids import keys_of
from services.trainer.examples import Batch
from services.trainer.graph import GraphConfig, GraphTable, GraphTables
from services.trainer.groups import Tables
from services.trainer.learner import Learner
from services.trainer.tables import Floats, RowConfig, RowTable
from tests.trainer.strategies.shop import ends_alike_after_a_restart, learned, learner, strategy
from tests.trainer.world import Shop

ROWS = RowConfig(dim=3, max_rows=120, admission=1, rate=0.5)


def graph(layers: int = 2, items: int = 4, shoppers: int = 5, rows: RowConfig = ROWS) -> GraphTables:
    return GraphTables(rows, GraphConfig(layers, items, shoppers))


def filled(tables: GraphTables, users: int, items: int, seed: int = 0) -> GraphTables:
    """Rows of chance for so many of both."""
    chance = np.random.default_rng(seed)
    for table, kind, count in ((tables.user, "u", users), (tables.item, "i", items)):
        slots = table.admit([f"{kind}{k}" for k in range(count)], 1)
        table.put(slots, chance.normal(size=(count, table.config.dim)).astype(np.float32), np.zeros(count, np.float32))
    return tables


def act(tables: GraphTables, actions: list[tuple[int, int]]) -> None:
    """Shopper and item by the number in their ids."""
    users, items = zip(*actions, strict=True)
    tables.acted(tables.user.find(keys_of(f"u{k}" for k in users)), tables.item.find(keys_of(f"i{k}" for k in items)))


def whole(tables: Tables) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LightGCN over everything by its formula, with the whole adjacency matrix: users, items by slot."""
    assert isinstance(tables, GraphTables)
    users, items = tables.user.next, tables.item.next
    edges = np.zeros((users, items))
    for user in range(users):
        edges[user, [slot - 1 for slot in tables.user.near[user] if slot]] = 1
    both = np.block([[np.zeros((users, users)), edges], [edges.T, np.zeros((items, items))]])
    scale = 1 / np.sqrt(np.maximum(both.sum(1), 1))
    step = scale[:, None] * both * scale
    layers = [np.concatenate([tables.user.rows[:users], tables.item.rows[:items]]).astype(np.float64)]
    for _ in range(tables.config.layers):
        layers.append(step @ layers[-1])
    return np.split(np.mean(layers, axis=0), [users])


def edges_of(table: GraphTable) -> set[tuple[int, int]]:
    return {(at, int(end) - 1) for at in range(table.next) for end in table.near[at] if end}


class Store:
    """What a reader of the deltas holds, by id."""

    def __init__(self) -> None:
        self.rows: dict[str, Floats] = {}

    def take(self, table: RowTable) -> int:
        ids, rows = table.changed()
        self.rows |= dict(zip(ids, rows, strict=True))
        return len(ids)


def as_pushed(store: Store, table: GraphTable, expected: NDArray[np.float64]) -> None:
    live = np.flatnonzero(table.live)
    found = np.array([store.rows[name] for name in table.ids.get(live)])
    np.testing.assert_allclose(found, expected[live], atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_row_is_the_mean_of_its_layers_with_the_degrees_of_the_paper(layers: int) -> None:
    tables = filled(graph(layers), 2, 3)
    act(tables, [(0, 0), (0, 1), (1, 1), (1, 2)])
    (u0, u1), (i0, i1) = tables.user.rows[:2], tables.item.rows[:2]
    first = i0 / np.sqrt(2 * 1) + i1 / np.sqrt(2 * 2)
    second = u0 / 2 + u0 / 4 + u1 / 4
    expected = np.mean([u0, first, second][: layers + 1], axis=0)
    np.testing.assert_allclose(tables.users(["u0"])[0][0], expected, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_pushed_is_full_propagation_whatever_moved_came_and_went(layers: int, seed: int) -> None:
    chance, tables = np.random.default_rng(seed), filled(graph(layers), 25, 20, seed)
    users, items = Store(), Store()
    for turn in range(60):
        act(tables, [(int(chance.integers(25)), int(chance.integers(20))) for _ in range(3)])
        slots = np.sort(chance.choice(20, 2, replace=False))
        step = slots, chance.normal(size=(2, 3)).astype(np.float32)
        tables.learn(step, (slots[:1], step[1][:1]), 1.0)
        if turn % 10 == 9:
            tables.user.remove([f"u{chance.integers(25)}"])
            tables.item.remove([f"i{chance.integers(20)}"])
        if turn % 3 == 0:
            users.take(tables.user)
            items.take(tables.item)
            for store, table, expected in zip((users, items), (tables.user, tables.item), whole(tables), strict=True):
                as_pushed(store, table, expected)
    assert edges_of(tables.user) == {(user, item) for item, user in edges_of(tables.item)}
    assert len(edges_of(tables.user)) > 20


def test_only_the_neighbourhood_of_what_moved_is_pushed() -> None:
    tables, users, items = filled(graph(1), 9, 9), Store(), Store()
    act(tables, [(k, k) for k in range(9)] + [(0, 1)])
    users.take(tables.user), items.take(tables.item)
    one = np.array([1]), np.ones((1, 3), np.float32)
    tables.learn((np.array([5]), np.ones((1, 3), np.float32)), (one[0][:0], one[1][:0]), 1.0)
    # The gradient of item 5 reaches e(0) of shopper 5: both are read by each other, and by nobody else.
    assert (items.take(tables.item), users.take(tables.user)) == (1, 1)
    tables.learn(one, (one[0][:0], one[1][:0]), 1.0)
    # Item 1 is shared by shoppers 0 and 1, who have items 0 and 1.
    assert (items.take(tables.item), users.take(tables.user)) == (2, 2)


def test_the_gradient_of_what_is_kept_is_that_of_propagation() -> None:
    tables = filled(graph(2, rows=RowConfig(dim=3, max_rows=120, admission=1, clip=1e9, max_norm=1e9)), 8, 7)
    chance = np.random.default_rng(1)
    act(tables, [(int(chance.integers(8)), int(chance.integers(7))) for _ in range(18)])
    before = tables.user.rows[:8].copy(), tables.item.rows[:7].copy()
    wanted = torch.from_numpy(chance.normal(size=(15, 3)))
    # Propagation as a matrix, from its answers to unit rows.
    columns = []
    for k in range(15):
        for table, part in ((tables.user, np.eye(15)[:8, k]), (tables.item, np.eye(15)[8:, k])):
            table.rows[: len(part)] = part[:, None]
        columns.append(np.concatenate([half[:, 0] for half in whole(tables)]))
    tables.user.rows[:8], tables.item.rows[:7] = before
    kept = torch.from_numpy(np.concatenate(before).astype(np.float64)).requires_grad_()
    (torch.from_numpy(np.stack(columns, 1)) @ kept * wanted).sum().backward()
    gradients = wanted.numpy().astype(np.float32)
    tables.learn((np.arange(7), gradients[8:]), (np.arange(8), gradients[:8]), 1.0)
    moved = np.concatenate([tables.user.rows[:8] - before[0], tables.item.rows[:7] - before[1]])
    slopes = kept.grad.numpy()  # type: ignore[union-attr]
    # One Adagrad step a row, from the accumulator that it begins with.
    step = 0.2 / (np.sqrt(np.square(slopes).mean(1, keepdims=True) + 0.01) + 1e-6)
    np.testing.assert_allclose(moved, -step * slopes, atol=1e-5)


def test_full_lists_lose_their_oldest_edge_at_both_ends() -> None:
    tables = filled(graph(items=2, shoppers=3), 9, 9)
    act(tables, [(0, 0), (0, 1), (0, 0), (0, 2)])
    assert edges_of(tables.user) == {(0, 0), (0, 2)}  # item 0 was renewed, so 1 was the oldest
    act(tables, [(k, 5) for k in range(1, 5)])
    assert {at for at, item in edges_of(tables.user) if item == 5} == {2, 3, 4}
    assert tables.user.degree[1] == 0


def cost(strangers: int) -> int:
    """Edges gone over by one update and its push, beside so many shoppers who have nothing to do with it."""
    tables = filled(graph(2, rows=RowConfig(dim=3, max_rows=4_000, admission=1)), 10 + strangers, 10 + strangers)
    act(tables, [(k % 10, (k * 3) % 10) for k in range(30)])
    act(tables, [(10 + k, 10 + (k + shift) % strangers) for k in range(strangers) for shift in range(3)])
    tables.item.changed(), tables.user.changed()
    before = tables.item.walked + tables.user.walked
    tables.items(["i1", "i2"])
    tables.learn((np.array([1, 2]), np.ones((2, 3), np.float32)), (np.array([3]), np.ones((1, 3), np.float32)), 1.0)
    act(tables, [(3, 1)])
    tables.item.changed(), tables.user.changed()
    return tables.item.walked + tables.user.walked - before


def test_an_update_costs_the_same_in_a_graph_a_hundred_times_as_large() -> None:
    assert cost(10) == cost(1_000) > 0


# In the trainer


def smoothed(made: Learner) -> GraphTables:
    assert isinstance(made.tables, GraphTables)
    return made.tables


def test_a_click_enters_the_graph_when_its_own_step_is_over() -> None:
    made, shop = learner(strategy="lightgcn(1)"), Shop(users=3, items=10)
    seen: list[int] = []

    class Looks:
        def appeared(self, group: object, scores: object, now_us: int) -> None:
            seen.append(len(edges_of(smoothed(made).user)))

        def closed(self, example: object) -> None: ...

    made.watcher = Looks()
    inner = strategy(made)._step
    at_learning: list[int] = []

    def step(*args: object) -> object:
        at_learning.append(len(edges_of(smoothed(made).user)))
        return inner(*args)  # type: ignore[arg-type]

    strategy(made)._step = step  # type: ignore[method-assign,assignment]
    made.apply(Batch({0: (0, 1)}, {0: shop.messages(1)}))
    assert at_learning == [0]
    assert len(edges_of(smoothed(made).user)) > 0


def test_what_learning_reads_and_what_is_pushed_are_the_same_rows() -> None:
    made, shop = learner(strategy="lightgcn(2, 4, 4)"), Shop(users=6, items=15)
    users, items = Store(), Store()
    for _ in range(8):
        learned(made, shop, 10)
        items.take(made.tables.item), users.take(made.tables.user)
        for store, read in ((users, made.tables.users), (items, made.tables.items)):
            names = list(store.rows)
            np.testing.assert_allclose(np.array([store.rows[name] for name in names]), read(names)[0], atol=1e-6)
    expected = whole(made.tables)
    as_pushed(users, smoothed(made).user, expected[0])
    assert np.abs(expected[0] - made.tables.user.rows[: made.tables.user.next] / 3).max() > 1e-3


def test_a_forgotten_shopper_leaves_the_graph() -> None:
    made, shop = learner(strategy="lightgcn(1)"), Shop(users=4, items=12)
    learned(made, shop, 40)
    tables = smoothed(made)
    slot = int(tables.user.find(keys_of(["user-2"]))[0])
    assert tables.user.degree[slot] > 0
    others = {edge for edge in edges_of(tables.user) if edge[0] != slot}
    tables.user.remove(["user-2"])
    assert edges_of(tables.user) == {(user, item) for item, user in edges_of(tables.item)} == others
    packed = made.pack_rows(lambda table: np.arange(table.next))
    assert (packed["item.near"] != slot + 1).all()
    assert not packed["user.near"][slot].any()


def test_rows_that_expire_leave_the_graph() -> None:
    made, shop = learner(strategy="lightgcn(1)"), Shop(users=4, items=12)
    learned(made, shop, 40)
    made.tables.item.expire(2**62)
    assert edges_of(smoothed(made).user) == set()


def test_the_graph_survives_a_restart_and_another_one_begins_anew() -> None:
    made, shop = learner(strategy="lightgcn(1, 4, 4)"), Shop(users=5, items=12)
    learned(made, shop, 40)
    made.tables.item.changed(), made.tables.user.changed()
    meta, files = made.snapshot()
    rows = [made.pack_rows(lambda table: np.arange(table.next))]
    same = learner(strategy="lightgcn(1, 4, 4)")
    same.restore(meta, files, rows)
    assert edges_of(smoothed(same).user) == edges_of(smoothed(made).user) != set()
    assert not same.tables.item.changed()[0]
    for text in ("lightgcn(1, 5, 4)", "lightgcn(2, 4, 4)", "", "lightgcn(1, 4, 5)"):
        other = learner(strategy=text)
        other.restore(meta, files, rows)
        np.testing.assert_array_equal(other.tables.item.rows[:12], made.tables.item.rows[:12])
        assert len(other.tables.item.changed()[0]) == 12  # read in another way: all are pushed
        learned(other, shop, 5)


@pytest.mark.parametrize("beside", ["", ", epochs(2, 2)", ", replay(50, 0.5)"])
def test_two_layers_survive_a_restart_bit_for_bit(beside: str, tmp_path: Path) -> None:
    assert ends_alike_after_a_restart(tmp_path, strategy=f"lightgcn(2, 3, 4){beside}", hold_out=0.1, accumulate=2)


@pytest.mark.parametrize("labels", ["waiting", "at_release"])
def test_labels_that_the_rows_would_have_seen_are_refused(labels: str) -> None:
    with pytest.raises(ValueError, match="lightgcn"):
        learner(strategy="lightgcn(1), epochs(2)", labels=labels)
