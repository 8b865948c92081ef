"""Cross features: each built-in against a plain loop over candidates and entries."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import plans
from services.common.errors import InvalidInput
from services.common.plans import CrossFeature
from services.gateway import cross
from services.gateway.cross import BUILTINS, DAY_US, Scene, Touched
from tests.gateway.shop import NOW, SECOND, crosses_of

NAN = float("nan")


def scene(entries: list[tuple[int, int, int]] | None, n: int, **columns: list[float]) -> Scene:
    """`entries`: (candidate or -1, kind, seconds ago), newest first; None = no list."""
    touched = {}
    if entries is not None:
        places, kinds, ago = (np.array([e[k] for e in entries], np.int64) for k in range(3))
        prices = np.array(columns.get("entry_price", [NAN] * len(entries)), np.float32)
        categories = np.array(columns.get("entry_category", [-1] * len(entries)), np.int64)
        codes = np.where(places >= 0, places, 1000 + np.arange(len(places)))
        touched["v:l"] = Touched(places, kinds, NOW - ago * SECOND, prices, categories, codes)
    return Scene(
        now_us=NOW,
        prior_rank=np.array(columns.get("prior", [0] * n), np.int64),
        price=np.array(columns.get("price", [NAN] * n), np.float32),
        category=np.array(columns.get("category", [-1] * n), np.int64),
        published_us=np.array(columns.get("published", [0] * n), np.int64),
        touched=touched,
    )


def result(name: str, the_scene: Scene, kind: int = 0) -> list[float]:
    return [float(value) for value in BUILTINS[name](the_scene, "v:l", kind)]


def same(found: list[float], expected: list[float]) -> bool:
    return all(
        (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-5)
        for a, b in zip(found, expected, strict=True)
    )


def test_every_builtin_the_feature_repository_may_name_is_computed_here() -> None:
    assert set(plans.BUILTINS) <= set(BUILTINS)


ENTRIES = [(1, 2, 5), (-1, 1, 6), (0, 1, 7), (1, 1, 100)]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("recency_rank", 0, [3, 1, NAN]),
        ("recency_rank", 1, [2, 3, NAN]),
        ("recency_rank", 4, [NAN, NAN, NAN]),
        ("list_count", 0, [1, 2, 0]),
        ("kind_count", 1, [1, 1, 0]),
        ("seconds_since", 0, [7, 5, NAN]),
        ("seconds_since", 1, [7, 100, NAN]),
        ("rank_delta", 0, [1, 0, 4]),
        ("rank_delta", 1, [0, -1, 3]),
        ("last_place", 0, [3, 3, 3]),
        ("last_place", 1, [4, 4, 4]),
        ("last_step", 0, [-1, -1, -1]),
        ("seconds_idle", 0, [5, 5, 5]),
        ("seconds_idle", 1, [6, 6, 6]),
    ],
)
def test_features_of_a_list(name: str, kind: int, expected: list[float]) -> None:
    assert same(result(name, scene(ENTRIES, 3, prior=[4, 3, 7]), kind), expected)


@pytest.mark.parametrize("name", sorted(name for name, (needs, _) in plans.BUILTINS.items() if needs))
def test_without_a_list_every_feature_of_it_is_missing(name: str) -> None:
    assert same(result(name, scene(None, 2, prior=[1, 2], price=[1, 2], category=[1, 1])), [NAN, NAN])


def test_an_empty_list_counts_nothing_and_ranks_nothing() -> None:
    assert result("list_count", scene([], 2)) == [0, 0]
    assert same(result("recency_rank", scene([], 2)), [NAN, NAN])


def test_prior_features_are_missing_where_the_caller_gave_no_place() -> None:
    the_scene = scene(None, 3, prior=[2, 0, 1])
    assert same(result("prior_rank", the_scene), [2, NAN, 1])
    assert same(result("prior_reciprocal", the_scene), [0.5, NAN, 1])
    assert same(result("position_share", the_scene), [0.5, NAN, 0])


def test_prices_are_ranked_among_those_known_and_equal_ones_share_a_rank() -> None:
    assert same(result("price_rank", scene(None, 5, price=[3, NAN, 1, 3, 9])), [2, NAN, 1, 2, 4])


def test_price_ratio_takes_the_requests_price_of_candidates_and_the_catalogues_of_others() -> None:
    the_scene = scene([(0, 1, 1), (-1, 1, 2), (-1, 1, 3)], 3, price=[10, 30, NAN], entry_price=[99, 20, NAN])
    assert same(result("price_ratio", the_scene), [10 / 15, 2, NAN])
    assert same(result("price_ratio", scene([(-1, 1, 1)], 1, price=[5])), [NAN])
    assert same(result("price_ratio", scene([(-1, 1, 1)], 1, price=[5], entry_price=[0])), [NAN])


def test_category_share_counts_entries_with_a_category() -> None:
    the_scene = scene(
        [(0, 1, 1), (-1, 1, 2), (-1, 1, 3), (-1, 1, 4)], 3, category=[7, 8, -1], entry_category=[7, 7, 9, -1]
    )
    assert same(result("same_category_share", the_scene), [2 / 3, 0, NAN])


def test_age_never_falls_below_zero_and_is_missing_when_unknown() -> None:
    published = [NOW - 3 * DAY_US, NOW + DAY_US, 0]
    assert same(result("age_days", scene(None, 3, published=published)), [3, 0, NAN])


def test_a_builtin_of_a_newer_feature_repository_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="no built-in 'telepathy'") as caught:
        cross.check([CrossFeature("cross", "x", "telepathy")])
    assert caught.value.field == "cross:x"


def test_columns_come_in_the_order_of_the_features() -> None:
    features = crosses_of({"a": {"builtin": "price"}, "b": {"builtin": "prior_rank"}})
    out = cross.compute(features, scene(None, 2, price=[5, 6], prior=[2, 1]))
    assert out.dtype == np.float32
    assert out.tolist() == [[5, 2], [6, 1]]


def plain(name: str, s: Scene, kind: int) -> list[float]:
    """The built-ins of a list, by a loop."""
    touched = s.touched["v:l"]
    rows = zip(touched.places.tolist(), touched.kinds.tolist(), touched.times.tolist(), strict=True)
    entries = [(place, time) for place, k, time in rows if not kind or k == kind]
    mine: Callable[[int], list[tuple[int, int]]] = lambda c: [(i, t) for i, (p, t) in enumerate(entries) if p == c]  # noqa: E731
    out = []
    for candidate in range(s.size):
        found = mine(candidate)
        if name in ("list_count", "kind_count"):
            out.append(float(len(found)))
        elif not found:
            out.append(NAN)
        elif name == "recency_rank":
            before = [p for p, _ in entries[: found[0][0]]]  # each -1 stands for an item of its own
            out.append(float(1 + before.count(-1) + len({p for p in before if p >= 0})))
        else:
            out.append(max(0, NOW - found[0][1]) / 1e6)
    return out


@settings(max_examples=150)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(-1, 11), st.integers(1, 4), st.integers(-5, 10_000)), max_size=50),
    st.integers(0, 4),
    st.sampled_from(["recency_rank", "list_count", "kind_count", "seconds_since"]),
)
def test_vectors_and_loops_agree(n: int, entries: list[tuple[int, int, int]], kind: int, name: str) -> None:
    inside = sorted(((p if p < n else -1, k, ago) for p, k, ago in entries), key=lambda e: e[2])
    the_scene = scene(inside, n)
    assert same(result(name, the_scene, kind), plain(name, the_scene, kind))
