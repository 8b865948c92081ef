"""Rows: found, given, taken and learned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.ids import keys_of
from services.trainer.admission import FrequencySketch
from services.trainer.keyindex import KeyIndex
from services.trainer.privacy.catalogue import CatalogueTable
from services.trainer.tables import RowConfig, RowTable

SMALL = RowConfig(dim=3, max_rows=200, admission=2)


def table(names: list[str], config: RowConfig = SMALL) -> RowTable:
    """A table in which these ids have rows."""
    made = RowTable(config)
    for _ in range(config.admission):
        made.observe(names, keys_of(names), 1)
    return made


def learn(made: RowTable, names: list[str], value: float = 1.0) -> None:
    slots = made.find(keys_of(names))
    made.learn(slots, np.full((len(names), made.config.dim), value, np.float32), 1.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=300), st.integers(2, 5))
def test_the_index_is_a_dictionary(changes: list[tuple[bool, int]], bits: int) -> None:
    index, truth = KeyIndex(bits), {}
    for slot, (insert, key) in enumerate(changes):
        one = np.array([key], np.uint64)
        if insert and key not in truth:
            index.insert(one, np.array([slot]))
            truth[key] = slot
        elif not insert:
            index.remove(one)
            truth.pop(key, None)
    keys = np.arange(61, dtype=np.uint64)
    assert index.find(keys).tolist() == [truth.get(key, -1) for key in range(61)]
    assert len(index) == len(truth)


def test_the_index_grows_under_many_keys_at_once() -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 300_000, np.uint64)
    index = KeyIndex(4)
    for start in range(0, len(keys), 7_000):
        part = keys[start : start + 7_000]
        index.insert(part, np.arange(start, start + len(part)))
    assert (index.find(keys) == np.arange(len(keys))).all()
    assert (index.find(keys + np.uint64(1)) == -1).all()


def test_the_sketch_never_counts_too_little_and_forgets() -> None:
    sketch = FrequencySketch(bits=6)
    keys = np.arange(40, dtype=np.uint64)
    sketch.add(np.repeat(keys, 2))
    assert (sketch.estimate(keys) >= 2).all()
    for _ in range(20):
        sketch.add(np.full(64, 99, np.uint64))
    assert (sketch.estimate(keys) <= 2).any()


def test_an_id_gets_a_row_when_it_has_been_seen_often_enough() -> None:
    made = RowTable(RowConfig(dim=3, max_rows=10, admission=3))
    keys = keys_of(["a", "b"])
    assert made.observe(["a", "b"], keys, 1).tolist() == [-1, -1]
    assert made.observe(["a", "b"], keys, 1).tolist() == [-1, -1]
    assert set(made.observe(["a", "b"], keys, 1)) == {0, 1}
    assert made.lookup(["a", "c"])[1].tolist() == [1, 0]


def test_a_table_tells_how_often_ids_were_seen() -> None:
    made = RowTable(RowConfig(dim=3, max_rows=10, admission=3))
    for _ in range(300):
        made.observe(["a"], keys_of(["a"]), 1)
    made.observe(["b"], keys_of(["b"]), 1)
    assert made.seen(["a", "b", "c"]).tolist() == [255, 1, 0]
    assert CatalogueTable(SMALL, ["a"]).seen(["a", "b"]).tolist() == [255, 255]  # counts would be private


def test_an_id_that_comes_thrice_in_one_batch_gets_one_row() -> None:
    made = RowTable(RowConfig(dim=3, max_rows=10, admission=3))
    assert made.observe(["a"] * 3, keys_of(["a"] * 3), 1).tolist() == [0, 0, 0]
    assert len(made) == 1


def test_a_full_table_refuses_and_counts() -> None:
    made = table(["a", "b", "c"], RowConfig(dim=3, max_rows=2, admission=1))
    assert len(made) == 2
    assert made.refused >= 1


def test_rows_follow_row_wise_adagrad_and_others_keep_every_bit() -> None:
    names = [f"i{k}" for k in range(50)]
    config = RowConfig(dim=3, max_rows=100, admission=1, clip=1e9, max_norm=1e9)
    made, chance = table(names, config), np.random.default_rng(1)
    made.rows[:50] = chance.normal(size=(50, 3)).astype(np.float32)
    rows, squares = made.rows[:50].astype(np.float64), np.zeros(50)
    untouched = made.rows[40:50].tobytes()
    for _ in range(100):
        slots = np.unique(chance.integers(0, 40, 12))
        gradients = chance.normal(size=(len(slots), 3)).astype(np.float32)
        made.learn(slots, gradients, 1.0)
        g = gradients.astype(np.float64)
        squares[slots] += (g * g).mean(axis=1)
        rows[slots] -= config.rate * g / (np.sqrt(squares[slots] + config.first) + config.epsilon)[:, None]
    np.testing.assert_allclose(made.rows[:50], rows, atol=1e-5)
    assert made.rows[40:50].tobytes() == untouched


def test_a_gradient_and_a_row_have_a_longest_length() -> None:
    made = table(["a"], RowConfig(dim=3, max_rows=10, admission=1, clip=1.0, max_norm=0.5, rate=10))
    learn(made, ["a"], 1e6)
    assert np.linalg.norm(made.rows[0]) == pytest.approx(0.5, rel=1e-5)


def test_a_gradient_whose_square_is_nothing_is_no_trouble() -> None:
    made = table(["a"], RowConfig(dim=3, max_rows=10, admission=1))
    before = made.rows[0].copy()
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        learn(made, ["a"], 1e-30)
    np.testing.assert_allclose(made.rows[0], before, atol=1e-20)


def test_a_delta_holds_what_changed_and_only_that() -> None:
    made = table(["a", "b", "c"])
    learn(made, ["b"])
    learn(made, ["b", "c"])
    ids, rows = made.changed()
    assert sorted(ids) == ["b", "c"]
    np.testing.assert_array_equal(rows, made.lookup(ids)[0])
    assert made.changed()[0] == []


def test_a_row_that_goes_is_zero_in_the_delta_and_its_place_waits_for_it() -> None:
    made = table(["old", "new"], RowConfig(dim=3, max_rows=2, admission=1))
    learn(made, ["old", "new"])
    made.changed()
    made.observe(["new"], keys_of(["new"]), 100)
    assert made.expire(50) == 1
    assert made.lookup(["old"])[1].tolist() == [0]
    made.observe(["third"], keys_of(["third"]), 100)
    assert len(made) == 1, "the place is not free before the delta says that the old row is gone"
    ids, rows = made.changed()
    assert ids == ["old"]
    assert not rows.any()
    made.observe(["third"], keys_of(["third"]), 100)
    assert len(made) == 2


def test_packed_rows_come_back_with_all_that_decides_the_next_step() -> None:
    made = table(["a", "b", "ü"])
    learn(made, ["a", "ü"])
    made.remove(["b"])
    other = RowTable(SMALL)
    other.unpack(made.pack(np.arange(made.next)))
    other.reopen(made.next)
    for one in (made, other):
        one.changed()
        learn(one, ["a"], 0.5)
    assert other.changed()[0] == made.changed()[0] == ["a"]
    np.testing.assert_array_equal(other.lookup(["a", "b", "ü"])[0], made.lookup(["a", "b", "ü"])[0])
    assert other.lookup(["a", "b", "ü"])[1].tolist() == [1, 0, 1]
