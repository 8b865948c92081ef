"""Small pieces of the benchmark of new items, on made-up shops: it runs, counts right, and is fair to both ways."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.learning import cold_retail, cold_world
from benchmarks.learning.cold_figures import summary
from benchmarks.learning.cold_shop import DAY_US, Shop, Visit
from services.common.content import content_matrix, tokens_of

Floats = NDArray[np.float32]


def encoder(texts: Sequence[str]) -> Floats:
    """Words by hash: as good as any for whether it runs."""
    return content_matrix([tokens_of([], "", text) for text in texts], 24)


def a_shop(visits: int = 160, items: int = 70) -> Shop:
    chance = np.random.default_rng(3)
    made = [Visit(0, "u0", "DE", tuple(range(40)))]
    for number in range(visits):
        known = 40 + (items - 40) * number // visits
        bought = tuple(chance.choice(known, 3, replace=False).tolist())
        made.append(Visit(number * 110 * DAY_US // visits, f"u{number % 9}", "DE", bought))
    titles = [f"kind{k % 7} colour{k % 5} thing{k}" for k in range(items)]
    return Shop(made, [f"i{k}" for k in range(items)], titles, np.full(items, 2, np.float32))


def test_a_replay_tells_of_each_way_by_the_same_visits() -> None:
    shop = a_shop()
    found = cold_retail.replay(shop, encoder(shop.titles), 1, 1, lambda visits: None)
    assert set(found["ways"]) == {"own", "mean", "text", "blended"}
    assert found["lists"] == sum(visit.day >= cold_retail.FROM_DAY for visit in shop.visits) > 20
    assert found["bought"] == 3 * found["lists"]
    assert 0 < found["ways"]["own"]["hits"]["value"] < 1
    assert found["ways"]["own"]["hits"]["less_own"] == {"value": 0, "lower": 0, "upper": 0}


def test_a_closed_shop_without_a_map_is_the_same_either_way() -> None:
    size = cold_world.Size(items=40, shoppers=10, days=2, visits=40, new=2, from_day=0)
    one, other = (cold_world.live(way, 1, encoder, size) for way in cold_world.WAYS)
    assert not any(judged["used"] for judged in other["maps"])
    assert one == other
    assert (one["lists"], one["places"]) == (80, 1_600)
    assert one["expected"] > 0


def test_figures_are_shares_of_what_was_counted() -> None:
    names = cold_retail.FIGURES
    day = dict.fromkeys(names, 0.0) | {"lists": 2, "hits": 10, "shelf": 10, "shelf_hits": 1, "pairs_7": 8, "wins_7": 6}
    better = day | {"hits": 20, "wins_7": 8}
    sums = [{"own": list(day.values()), "text": list(better.values())} for _ in range(5)]
    found = summary(sums, names, 20)
    assert found["own"]["hits"]["value"] == pytest.approx(0.25)
    assert found["text"]["hits"]["less_own"] == pytest.approx({"value": 0.25, "lower": 0.25, "upper": 0.25})
    assert found["text"]["auc_7"]["value"] == pytest.approx(1)
    assert found["own"]["auc_1"]["value"] is None
