"""The picture of the catalogue: vectors renewed for what changed, exact and approximate search."""

from pathlib import Path

import numpy as np
import pytest
from freshrank.v1.models_pb2 import ItemRow
from usearch.index import Index

from services.gateway import catalogue, retrieve
from services.gateway.candidates import RowSlot
from services.gateway.catalogue import Vectors
from tests.gateway.shop import Shop, plan


def vectors(shop: Shop) -> np.ndarray:
    picture = shop.state.picture
    assert picture is not None
    world = shop.state.world
    assert world.champion is not None
    return picture.vectors[world.champion.release.name].values


def found(rows: np.ndarray, index: Index | None) -> Vectors:
    return Vectors(rows, RowSlot("a", rows.shape[1], 1), np.zeros(len(rows), np.uint32), index)


def test_only_what_changed_is_computed_again_and_equals_computing_all(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    before = vectors(shop).copy()
    shop.writer.apply([(b"r|a|i3", ItemRow(row=[9, 9, 9, 9], epoch=1, seq=99).SerializeToString())])
    shop.paint()
    after = vectors(shop)
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == shop.table.slots(["i3"]).tolist()
    shop.state.picture = None
    shop.paint()
    np.testing.assert_allclose(vectors(shop), after, rtol=1e-6)


def test_another_release_computes_all_vectors_anew(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    before = vectors(shop).copy()
    shop.state.worlds = shop.world("r2")
    shop.state.world.champion.release.matrices["content"][:] = 0  # type: ignore[union-attr, index]
    shop.paint()
    assert not np.array_equal(before, vectors(shop))


@pytest.mark.parametrize("items", [300])
def test_the_approximate_index_finds_what_the_exact_search_finds(tmp_path: Path, items: int) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(items, 16)).astype(np.float32)
    index = catalogue.indexed(None, rows, np.arange(items), known=0)
    again = random.normal(size=(20, 16)).astype(np.float32)
    rows[:20] = again
    index = catalogue.indexed(index, rows, np.arange(20), known=items)
    exact, near = found(rows, None), found(rows, index)
    keep = np.ones(items, np.bool_)
    hits = 0
    for query in random.normal(size=(30, 16)).astype(np.float32):
        hits += len(
            set(catalogue.nearest(exact, query, keep, 10).tolist())
            & set(catalogue.nearest(near, query, keep, 10).tolist())
        )
    assert hits / 300 > 0.95


def test_filters_hold_for_the_approximate_index_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    index = catalogue.indexed(None, rows, np.arange(50), known=0)
    keep = np.arange(50) % 2 == 0
    slots = catalogue.nearest(found(rows, index), rows[3], keep, 5)
    assert len(slots) == 5
    assert (slots % 2 == 0).all()


def test_popular_and_trending_are_found_by_definition_not_by_name() -> None:
    found = retrieve.popularity(plan())
    the_plan = plan()
    assert found.trending == ("item_stats", the_plan.feature("item_stats:trend").id)
    assert found.popular == ("item_stats", the_plan.feature("item_stats:popular").id)
