"""What searches teach: pure, on hand-made examples."""

from dataclasses import replace

import numpy as np
import pytest
from freshrank.v1.events_pb2 import Degradation, Impression
from freshrank.v1.models_pb2 import CatalogueItem

from services.common.ids import key_of
from services.common.records import CLOSED, FLIP, INITIAL
from services.trainer.examples import Example
from services.trainer.text.catalogue import Texts
from services.trainer.text.judge import Tally, spread
from services.trainer.text.searches import SHOWN, Search, batches, passed_over, search_of, told
from tests.trainer.text.searching import CART, CLICK, PURCHASE, impression


def example(kind: int, shown: Impression, labels: list[int]) -> Example:
    places = list(range(len(labels)))
    weights = np.ones(len(labels), np.float32)
    return Example(kind, 5, 4, 3, shown.impression_id, "ann", places, np.array(labels, np.uint8), weights, shown)


def test_a_closed_search_tells_what_was_chosen_and_what_was_passed_over() -> None:
    shown = impression(["a", "b", "c", "d", "e"], "lamp", "ann")
    found = search_of(example(CLOSED, shown, [0, CLICK, 0, CLICK | CART, 0]))
    assert found == Search("lamp", key_of("ann"), 5, ("a", "b", "c", "d", "e"), (1, 3))
    assert passed_over(found, 1) == ["c"]


@pytest.mark.parametrize(
    ("kind", "more", "labels"),
    [
        (CLOSED, {}, [0, 0]),
        (CLOSED, {"query": ""}, [CLICK, 0]),
        (CLOSED, {"degradation": Degradation.DEGRADATION_POPULAR}, [CLICK, 0]),
        (INITIAL, {}, [CLICK, 0]),
        (FLIP, {}, [CLICK]),
    ],
    ids=["no click", "no query", "popular items", "its appearance", "a click, which its end tells again"],
)
def test_what_teaches_nothing_is_passed_over(kind: int, more: dict[str, object], labels: list[int]) -> None:
    shown = impression(["a", "b"], "lamp", "ann")
    for name, value in more.items():
        setattr(shown, name, value)
    assert search_of(example(kind, shown, labels)) is None


def test_a_purchase_counts_its_pair_once_more_and_is_not_judged() -> None:
    found = search_of(example(FLIP, impression(["a"], "lamp", "ann"), [PURCHASE]))
    assert found is not None
    assert (found.items, found.chosen, found.judged) == (("a",), (0,), False)
    assert passed_over(found, 3) == []


def test_candidates_that_were_not_shown_are_no_negatives() -> None:
    shown = impression(["a", "b", "c"], "lamp", "ann")
    shown.items[0].shown = False
    found = search_of(example(CLOSED, shown, [0, 0, CLICK]))
    assert found is not None
    assert (found.items, found.chosen) == (("b", "c"), (1,))


def test_a_long_list_is_kept_as_far_as_it_was_looked_at() -> None:
    shown = impression([f"i{k}" for k in range(100)], "lamp", "ann")
    lengths = []
    for clicked in (0, 50):
        found = search_of(example(CLOSED, shown, [CLICK * (k == clicked) for k in range(100)]))
        assert found is not None
        lengths.append(len(found.items))
    assert lengths == [SHOWN, 51]


def test_items_without_a_text_are_left_out() -> None:
    search = Search("q", 1, 2, ("a", "b", "c"), (0, 2))
    known = {"b": "B", "c": "C"}
    assert told(search, lambda item: known.get(item, "")) == replace(search, items=("B", "C"), chosen=(1,))
    assert told(search, {"b": "B"}.get) is None  # type: ignore[arg-type]


def test_an_item_that_looks_like_the_chosen_one_is_no_negative() -> None:
    assert passed_over(Search("q", 1, 2, ("same", "other", "same"), (2,)), 5) == ["other"]


def test_every_pair_comes_once_in_an_order_of_the_seed() -> None:
    searches = [Search(f"q{k}", k, 0, ("x", f"a{k}", f"b{k}"), (1, 2)) for k in range(10)]
    found = [batches(searches, 8, 2, np.random.Generator(np.random.Philox(key=[seed, 1]))) for seed in (1, 1, 2)]
    rows = [[row for p in one for row in zip(p.queries, p.items, p.owners, strict=True)] for one in found]
    assert [len(part) for part in found[0]] == [8, 8, 4]
    assert rows[0] == rows[1] != rows[2]
    assert sorted(rows[0]) == sorted((f"q{k}", f"{i}{k}", k) for k in range(10) for i in "ab")
    assert found[0][0].negatives == ["x"]


def test_the_newest_text_of_an_item_counts_until_it_is_deleted() -> None:
    texts = Texts()
    found = []
    for key, value in (
        (b"c|1", CatalogueItem(title="Old").SerializeToString()),
        (b"c|1", CatalogueItem(title="New").SerializeToString()),
        (b"f|view|1", b"features"),
        (b"c|1", b"\xff\xff"),
        (b"c|\xff", CatalogueItem(title="No").SerializeToString()),
        (None, b""),
        (b"c|1", None),
    ):
        texts.apply(key, value)
        found.append(texts.of("1"))
    assert found == ["Old", "New", "New", "New", "New", "New", ""]


def test_lists_are_judged_from_all_over_a_slice() -> None:
    lists = [Search(f"{k}", 0, 0, ("a", "b"), (0,)) for k in range(90)] + [Search("buy", 0, 0, ("a",), (0,))]
    assert [one.query for one in spread(lists, 3)] == ["0", "30", "60"]
    assert spread(lists, 200) == lists[:90]


def test_figures_are_means_over_all_lists_since_the_release() -> None:
    tally = Tally()
    assert tally.means() == {}
    tally.add(np.array([[1.0, 0.5]]), np.array([[0.0, 0.0]]))
    tally.add(np.array([[0.0, 0.5], [0.5, 0.5]]), np.array([[1.0, 1.0], [0.5, 0.5]]))
    assert Tally(tally.sums).means() == {"lists": 3, "ndcg10": 0.5, "mrr": 0.5, "base_ndcg10": 0.5, "base_mrr": 0.5}
