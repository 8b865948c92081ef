"""What is counted of a query comes with the shopper, in one round trip, and is served as it was read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.common.encode import encode
from services.common.errors import TemporaryError
from services.common.plans import Plan
from services.gateway import ladder
from services.gateway.calls import Caller, ExplainCall, RankCall, SearchCall
from services.gateway.candidates import Wanted
from services.gateway.feast import ShopperStore
from services.gateway.impressions import to_message
from services.gateway.releases import Routes, worlds_of
from services.online.keys import entity_key
from services.online.reader import Read, Rows
from tests.gateway import shop as shops
from tests.gateway.shop import NOW, SECOND, Shop, budget
from tests.gateway.test_rank import RowsOf

ADA = Caller("ada", "visit")
QUERY, OF_ITEM, OF_CATEGORY = ("query",), ("query", "item_id"), ("query", "category")
ASKED = ("query_stats", "query_item_stats", "query_category_stats")


def plan() -> Plan:
    """The small shop's, with three views by query."""
    old = shops.plan()
    users = [shops.feature("query_stats", QUERY, "searches")]
    items = [shops.feature("query_item_stats", OF_ITEM, "item_clicks")]
    categories = [shops.feature("query_category_stats", OF_CATEGORY, "category_clicks")]
    views = [shops.view(f[0].view, f[0].join_keys, *f) for f in (categories, items, users)]
    ranking = old.ranking
    user, item = (*ranking.user, *(f.ref for f in users)), (*ranking.item, *(f.ref for f in (*items, *categories)))
    made = type(ranking)("ranking@query", user, item, ranking.history, ranking.cross, ())
    return Plan(old.project, (*old.views, *views), made, old.retrieval, old.crosses)


class Store:
    """A store in memory: numbers by view and key; all of them were folded up to position 40, a second ago."""

    def __init__(self, values: dict[tuple[str, bytes], float]) -> None:
        self.values = values
        self.failing = False
        self.trips: list[set[str]] = []

    async def read(self, reads: Sequence[Read], *, timeout_s: float, now_us: int) -> list[Rows]:
        """As `MatrixReader.read`."""
        if self.failing:
            raise TemporaryError("down")
        self.trips.append({read.view for read in reads})
        return [self._rows(read) for read in reads]

    def _rows(self, read: Read) -> Rows:
        found = [self.values.get((read.view, key), np.nan) for key in read.keys]
        there = ~np.isnan(np.array(found))
        matrix = np.repeat(np.array(found, np.float32)[:, None], len(read.numeric), axis=1)
        packed = {name: np.zeros((len(found), dim), np.float32) for name, dim in read.packed}
        return Rows(
            matrix,
            {name: [None] * len(found) for name in read.objects},
            packed,
            {name: np.zeros(len(found), np.bool_) for name in packed},
            there,
            np.zeros(len(found), np.bool_),
            np.where(there, NOW - SECOND, 0),
            np.ones(len(found), np.uint32),
            np.where(there, 40, 0).astype(np.uint64),
        )


@pytest.fixture
def store() -> Store:
    keys = {
        ("query_stats", QUERY, ("thing 7",)): 5,
        ("query_item_stats", OF_ITEM, ("thing 7", "i7")): 3,
        ("query_category_stats", OF_CATEGORY, ("thing 7", "shirts")): 2,
        ("query_stats", QUERY, ("thing 8",)): 9,
    }
    return Store({(view, entity_key("shop", names, key)): value for (view, names, key), value in keys.items()})


@pytest.fixture
def shop(tmp_path: Path, store: Store) -> Shop:
    made = Shop(tmp_path)
    made.plan = plan()
    release = shops.release("r1", made.plan)
    routes = made.state.worlds.incumbent.route
    made.state.worlds = worlds_of(made.plan, Routes.only(routes), {"r1": release})
    made.pipeline._store = ShopperStore(store)  # type: ignore[arg-type]
    return made


def search(query: str) -> SearchCall:
    return SearchCall(ADA, query, "search", 10, NOW)


async def test_a_search_reads_what_is_counted_of_its_query_in_one_trip_and_serves_it(shop: Shop, store: Store) -> None:
    answer = await shop.searcher.search(search("Thing 7"), budget())
    assert len(store.trips) == 1
    assert store.trips[0] >= set(ASKED)
    message = to_message(shop.served[0])
    user = dict(zip(message.user_feature_ids, message.user_features, strict=True))
    features = {f.name: f.id for view in shop.plan.views for f in view.features}
    assert user[features["searches"]] == 5
    assert dict(zip(message.user_views, message.user_pos, strict=True))["query_stats"] == 40
    assert list(message.item_views) == ["item_stats", "pair_stats", "query_category_stats", "query_item_stats"]
    at = [list(message.item_feature_ids).index(features[name]) for name in ("item_clicks", "category_clicks")]
    for item in message.items:
        want = [3 if item.item_id == "i7" else np.nan, 2 if item.category == "shirts" else np.nan]
        np.testing.assert_array_equal([item.features[place] for place in at], want)
        assert list(item.pos[-2:]) == [40 if value == value else 0 for value in reversed(want)]
    assert {item.item_id for item in message.items} >= {"i7"}
    explained = await shop.explainer.explain(ExplainCall(answer.token, "i7", 50, NOW), budget(), 0.0)
    values = {part.feature: part.value for part in explained.parts}
    names = ("query_stats:searches", "query_item_stats:item_clicks", "query_category_stats:category_clicks")
    assert [values[name] for name in names] == [5, 3, 2]
    assert next(part for part in explained.parts if part.feature == "query_stats:searches").age_ms == 1000


async def test_what_a_search_served_makes_the_same_inputs_again(shop: Shop) -> None:
    await shop.searcher.search(search("thing 7"), budget())
    served, (_, arrays) = shop.served[0], shop.scorer.calls[0]
    again = encode([to_message(served)], shops.spec_of(shop.plan), RowsOf(served))
    np.testing.assert_array_equal(again["user"], arrays["user"])
    np.testing.assert_array_equal(again["item"], arrays["item"][:, served.order])


async def test_who_searches_for_nothing_asks_for_no_query(shop: Shop, store: Store) -> None:
    await shop.ranker.rank(RankCall(ADA, "rank", Wanted.of(["i7"]), NOW), budget())
    assert not store.trips[0] & set(ASKED)
    assert np.isnan(shop.scorer.calls[0][1]["user"][0, -1])
    assert "query_stats" not in to_message(shop.served[0]).user_views


async def test_a_store_that_fails_leaves_nothing_of_another_query(shop: Shop, store: Store) -> None:
    await shop.searcher.search(search("thing 7"), budget())
    store.failing = True
    answer = await shop.searcher.search(search("thing 8"), budget())
    assert answer.rung == ladder.STALE_FEATURES
    message = to_message(shop.served[1])
    at = [n for n, ref in enumerate(shop.state.world.schema.item) if ref.view in ASKED]
    assert np.isnan([item.features[place] for item in message.items for place in at]).all()
    assert np.isnan(message.user_features[-1])
    assert list(message.user_views) == ["session_stats", "user_stats"]


async def test_the_age_of_a_shoppers_features_is_not_that_of_a_query(shop: Shop) -> None:
    answer = await shop.searcher.search(search("thing 7"), budget())
    assert answer.ages.user_features_ms == -1
