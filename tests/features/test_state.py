"""The columns under the state: ragged rows, the hash table, distinct values, keys, item updates."""

import math

import numpy as np
from freshrank.v1.models_pb2 import ItemFeatures
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.records import Message
from services.features.by_item import ItemFold
from services.features.by_user import UserFold
from services.features.distinct import Seen
from services.features.hashes import HashIndex
from services.features.interner import Interner
from services.features.kafka import item_updates
from services.features.ragged import Ragged
from tests.features.makers import HOUR, START, event, feature, impression, message, messages, tick, view_of


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, unique=True), st.integers(0, 5)), max_size=60))
@settings(max_examples=30)
def test_ragged_rows_are_what_was_put_last(steps: list[tuple[list[int], int]]) -> None:
    store, want = Ragged({"x": (np.int64, 0), "y": (np.float64, 2)}), dict.fromkeys(range(10), [])
    for number, (slots, count) in enumerate(steps):
        counts = np.array([(count + place) % 4 for place in range(len(slots))])
        x = np.arange(counts.sum()) + 100 * number
        store.replace(np.array(slots), counts, {"x": x, "y": np.stack([x, -x], axis=1)})
        ends = np.cumsum(counts)
        want |= {slot: x[end - n : end].tolist() for slot, n, end in zip(slots, counts, ends, strict=True)}
    owner, columns = store.gather(np.arange(10))
    assert [columns["x"][owner == slot].tolist() for slot in range(10)] == list(want.values())
    assert (columns["y"][:, 1] == -columns["x"]).all()
    assert store.live == len(owner)


@given(st.lists(st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=300), max_size=8))
@settings(max_examples=20)
def test_a_hash_index_finds_what_was_inserted_and_nothing_else(batches: list[list[int]]) -> None:
    index, want = HashIndex(), {}
    for batch in batches:
        new = [key for key in batch if key not in want]
        rows = np.arange(len(new)) + len(want)
        index.insert(np.array(new, np.uint64), rows)
        want |= dict(zip(new, rows.tolist(), strict=True))
    asked = [*want, 12345, 2**63]
    found = index.find(np.array(asked, np.uint64)).tolist()
    assert found == [want.get(key, -1) for key in asked]


def test_a_value_counts_at_the_newest_tile_it_was_seen_in() -> None:
    seen, serial = Seen(), np.array([1, 1])
    rows, tiles, signs = seen.add(serial, np.array([7, 7], np.uint64), np.array([3, 5]))
    assert (rows.tolist(), tiles.tolist(), signs.tolist()) == ([1], [5], [1.0])
    rows, tiles, signs = seen.add(serial[:1], np.array([7], np.uint64), np.array([4]))
    assert len(rows) == 0
    rows, tiles, signs = seen.add(serial[:1], np.array([7], np.uint64), np.array([6]))
    assert (tiles.tolist(), signs.tolist()) == ([6, 5], [1.0, -1.0])


def test_values_not_seen_for_long_are_let_go() -> None:
    seen = Seen()
    for tile in range(3):
        values = np.arange(4096, dtype=np.uint64) + np.uint64(tile * 4096)
        seen.add(np.zeros(4096, np.int64), values, np.full(4096, tile))
    seen.sweep(2)
    assert seen.size == 4096


def test_words_no_state_holds_are_let_go() -> None:
    listed = feature("last_n", "item", "STRING_LIST", n="1")
    fold = UserFold([view_of(listed)], 0, 1)
    for offset in range(60):
        rows = [event(START + offset, item=f"i{offset}-{n}") for n in range(1000)]
        fold.apply([message(offset, rows)])
    fold.snapshot()
    assert len(fold.interner.words) == 1
    (view,) = fold.apply([message(60, [tick(START + HOUR - 1), event(START + 90, item="new")])]).views
    assert view.columns["f"].values == [["new"]]


def test_interned_words_keep_their_number() -> None:
    interner = Interner()
    assert interner.codes(["a", "b"]).tolist() == interner.codes(["a", "b"]).tolist()
    assert interner.text(interner.codes(["b", "c"])) == ["b", "c"]


def test_item_features_are_sent_with_their_ids_and_nan_for_null() -> None:
    number = feature("count", value_type="INT64", view="items", join_keys=("item_id",), name="n")
    null = feature("mean", "price", view="items", join_keys=("item_id",), name="m")
    listed = feature("last_n", "user", "STRING_LIST", view="items", join_keys=("item_id",), name="l", n="2")
    sender, fold = UserFold([], 0, 1), ItemFold([view_of(number, null, listed)])
    out = sender.apply(messages([[impression(START, ["i", "j"], [None, None]), event(START + 1, item="i")]]))
    (view,) = fold.apply([Message(4, out.items[0][0])]).views
    sent = {key: ItemFeatures.FromString(value) for key, value in item_updates(view)}
    assert set(sent) == {b"f|items|i", b"f|items|j"}
    features = sent[b"f|items|i"]
    assert dict(zip(features.ids, features.values, strict=True))[number.id] == 2
    assert math.isnan(dict(zip(features.ids, features.values, strict=True))[null.id])
    assert listed.id not in features.ids
    assert (features.pos, features.time_us) == (5, START + 1)


def test_views_with_more_keys_than_the_item_are_not_sent_to_gateways() -> None:
    by_category = feature("count", value_type="INT64", view="x", join_keys=("user_id", "category"))
    fold = UserFold([view_of(by_category)], 0, 1)
    (view,) = fold.apply([message(0, [event(START, category="c")])]).views
    assert list(item_updates(view)) == []
