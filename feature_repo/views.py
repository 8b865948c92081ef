"""Streaming features, one line each. The grammar is in README.md; `freshrank features plan` checks it.

Every view also gets `_pos` and `_clock`: up to which record, and at which time of the log, its values hold.
"""

from collections.abc import Sequence
from datetime import timedelta

from entities import category, item, query, session, user
from feast import Entity, Field, StreamFeatureView
from feast.aggregation import Aggregation
from feast.types import Array, FeastType, Float32, Int64, String
from sources import stream

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

FIVE_MINUTES = (5 * MINUTE, timedelta(seconds=10))
ONE_HOUR = (HOUR, MINUTE)
ONE_DAY = (DAY, HOUR)
SEVEN_DAYS = (7 * DAY, 6 * HOUR)
THIRTY_DAYS = (30 * DAY, DAY)
"""Window and slide: how long an event counts, and how often the window moves."""

CLICK, IMPRESSION = "kind == 'click'", "kind == 'impression'"
BUY, SEARCH = "kind == 'purchase'", "kind == 'search'"
TOUCH = "item is not null and kind != 'impression'"
"""What a history holds: everything a shopper did with an item."""
ACTED = f"{TOUCH} and kind != 'dwell'"
"""The same in views of queries, which have rows of stays."""
KEPT = "dwell_seconds >= 30"
"""A click whose shopper stayed: half a minute is the usual bound (Fox et al., 2005)."""

Window = tuple[timedelta, timedelta]
Feature = tuple[Aggregation, Field]


def feature(
    name: str, function: str, column: str, window: Window, dtype: FeastType = Float32, text: str = "", **tags: str
) -> Feature:
    """One feature: what Feast's Aggregation can say, and what its tags add."""
    aggregation = Aggregation(
        column=column, function=function, time_window=window[0], slide_interval=window[1], name=name
    )
    return aggregation, Field(name=name, dtype=dtype, description=text, tags=tags)


def count(name: str, window: Window, where: str) -> Feature:
    """How often something happened."""
    return feature(name, "count", "kind", window, Int64, where=where)


def ratio(name: str, window: Window, numerator: str, denominator: str, prior: float, weight: float) -> Feature:
    """A share, drawn towards `prior` as if `weight` observations of it had been made before."""
    return feature(
        name, "ratio", "kind", window,
        numerator=numerator, denominator=denominator, prior=str(prior), prior_weight=str(weight),
    )  # fmt: skip


def lists(prefix: str, window: Window, n: int) -> list[Feature]:
    """The newest n touches as three parallel lists, newest first."""
    tags = {"n": str(n), "where": TOUCH}
    return [
        feature(f"{prefix}_items", "last_n", "item", window, Array(String), **tags),
        feature(f"{prefix}_kinds", "last_n", "kind", window, Array(Int64), **tags),
        feature(f"{prefix}_times", "last_n", "time_us", window, Array(Int64), **tags),
    ]


def view(name: str, entities: list[Entity], features: Sequence[Feature]) -> StreamFeatureView:
    """A view of the log."""
    marks = [Field(name="_pos", dtype=Int64), Field(name="_clock", dtype=Int64)]
    return StreamFeatureView(
        name=name,
        entities=entities,
        ttl=30 * DAY,
        schema=[field for _, field in features] + marks,
        aggregations=[aggregation for aggregation, _ in features],
        source=stream(name),
        timestamp_field="event_timestamp",
        tags={"file": "views.py"},
    )


user_stats = view(
    "user_stats",
    [user],
    [
        count("views_5m", FIVE_MINUTES, "kind == 'view'"),
        count("clicks_5m", FIVE_MINUTES, CLICK),
        count("clicks_1h", ONE_HOUR, CLICK),
        count("searches_1h", ONE_HOUR, SEARCH),
        count("impressions_1h", ONE_HOUR, IMPRESSION),
        count("carts_1d", ONE_DAY, "kind == 'add_to_cart'"),
        count("purchases_30d", THIRTY_DAYS, "kind == 'purchase'"),
        ratio("ctr_1d", ONE_DAY, CLICK, IMPRESSION, prior=0.05, weight=20),
        feature("spend_30d", "sum", "value", THIRTY_DAYS, where="kind == 'purchase'"),
        feature("mean_price_7d", "mean", "price", SEVEN_DAYS, where=TOUCH),
        feature("std_price_30d", "std", "price", THIRTY_DAYS, where=TOUCH),
        feature("max_price_1d", "max", "price", ONE_DAY, where=TOUCH),
        feature("mean_rating_30d", "mean", "rating", THIRTY_DAYS, where="kind == 'rate'"),
        feature("played_seconds_1d", "sum", "play_seconds", ONE_DAY),
        feature("distinct_items_1d", "count_distinct", "item", ONE_DAY, Int64, where=TOUCH),
        feature("distinct_categories_7d", "count_distinct", "category", SEVEN_DAYS, Int64, where=TOUCH),
        feature("decayed_clicks", "decay", "kind", (2 * DAY, HOUR), where=CLICK, half_life="6h"),
        feature("last_category", "last", "category", THIRTY_DAYS, String, where=TOUCH),
        feature("top_categories", "top_k", "category", SEVEN_DAYS, Array(String), where=TOUCH, n="5"),
        *lists("recent", THIRTY_DAYS, 20),
    ],
)

session_stats = view(
    "session_stats",
    [session],
    [
        count("session_views", ONE_DAY, "kind == 'view'"),
        count("session_clicks", ONE_DAY, CLICK),
        count("session_impressions", ONE_DAY, IMPRESSION),
        feature("session_items_seen", "count_distinct", "item", ONE_DAY, Int64, where=TOUCH),
        feature("session_mean_price", "mean", "price", ONE_DAY, where=TOUCH),
        *lists("session", ONE_DAY, 50),
    ],
)

item_stats = view(
    "item_stats",
    [item],
    [
        count("item_views_5m", FIVE_MINUTES, "kind == 'view'"),
        count("item_clicks_1h", ONE_HOUR, CLICK),
        count("item_impressions_1h", ONE_HOUR, IMPRESSION),
        count("item_carts_1d", ONE_DAY, "kind == 'add_to_cart'"),
        count("item_purchases_7d", SEVEN_DAYS, "kind == 'purchase'"),
        ratio("item_ctr_1h", ONE_HOUR, CLICK, IMPRESSION, prior=0.05, weight=20),
        ratio("item_ctr_1d", ONE_DAY, CLICK, IMPRESSION, prior=0.05, weight=20),
        ratio("item_ctr_30d", THIRTY_DAYS, CLICK, IMPRESSION, prior=0.05, weight=20),
        feature("item_revenue_7d", "sum", "value", SEVEN_DAYS, where="kind == 'purchase'"),
        feature("item_mean_rating_30d", "mean", "rating", THIRTY_DAYS, where="kind == 'rate'"),
        feature("item_mean_play_share_7d", "mean", "play_share", SEVEN_DAYS),
        feature("item_distinct_users_1d", "count_distinct", "user", ONE_DAY, Int64, where=TOUCH),
        feature("item_trend", "decay", "kind", (6 * HOUR, 10 * MINUTE), where=TOUCH, half_life="1h"),
    ],
)

user_category_stats = view(
    "user_category_stats",
    [user, category],
    [
        count("category_clicks_1h", ONE_HOUR, CLICK),
        count("category_clicks_7d", SEVEN_DAYS, CLICK),
        count("category_purchases_30d", THIRTY_DAYS, "kind == 'purchase'"),
        ratio("category_ctr_7d", SEVEN_DAYS, CLICK, IMPRESSION, prior=0.05, weight=20),
        feature("category_mean_price_30d", "mean", "price", THIRTY_DAYS, where=TOUCH),
        feature("category_decayed_touches", "decay", "kind", (2 * DAY, HOUR), where=TOUCH, half_life="12h"),
    ],
)

query_stats = view(
    "query_stats",
    [query],
    [
        count("query_searches_1h", ONE_HOUR, SEARCH),
        count("query_searches_7d", SEVEN_DAYS, SEARCH),
        count("query_clicks_1d", ONE_DAY, CLICK),
        count("query_clicks_30d", THIRTY_DAYS, CLICK),
        count("query_reformulations_7d", SEVEN_DAYS, "kind == 'reformulation'"),
        count("query_carts_7d", SEVEN_DAYS, "kind == 'add_to_cart'"),
        count("query_purchases_30d", THIRTY_DAYS, BUY),
        feature("query_examined_30d", "sum", "examined", THIRTY_DAYS),
        ratio("query_reformulated_7d", SEVEN_DAYS, "kind == 'reformulation'", SEARCH, prior=0.2, weight=10),
        ratio("query_ctr_1d", ONE_DAY, CLICK, IMPRESSION, prior=0.05, weight=20),
        ratio("query_ctr_30d", THIRTY_DAYS, CLICK, IMPRESSION, prior=0.05, weight=20),
        ratio("query_conversion_30d", THIRTY_DAYS, BUY, CLICK, prior=0.02, weight=20),
        feature("query_dwell_7d", "mean", "dwell_seconds", SEVEN_DAYS),
        feature("query_play_seconds_7d", "mean", "play_seconds", SEVEN_DAYS),
        feature("query_mean_price_7d", "mean", "price", SEVEN_DAYS, where=TOUCH),
        feature("query_shoppers_7d", "count_distinct", "user", SEVEN_DAYS, Int64),
        feature("query_trend", "decay", "kind", (6 * HOUR, 10 * MINUTE), where=SEARCH, half_life="1h"),
    ],
)

query_item_stats = view(
    "query_item_stats",
    [query, item],
    [
        count("query_item_clicks_30d", THIRTY_DAYS, CLICK),
        feature("query_item_examined_30d", "sum", "examined", THIRTY_DAYS),
        count("query_item_purchases_30d", THIRTY_DAYS, BUY),
        ratio("query_item_ctr_1d", ONE_DAY, CLICK, IMPRESSION, prior=0.05, weight=10),
        ratio("query_item_ctr_30d", THIRTY_DAYS, CLICK, IMPRESSION, prior=0.05, weight=10),
        feature("query_item_dwell_30d", "mean", "dwell_seconds", THIRTY_DAYS),
        ratio("query_item_kept_30d", THIRTY_DAYS, KEPT, CLICK, prior=0.3, weight=10),
        feature("query_item_decayed_touches", "decay", "kind", (2 * DAY, HOUR), where=ACTED, half_life="12h"),
    ],
)

query_category_stats = view(
    "query_category_stats",
    [query, category],
    [
        count("query_category_clicks_7d", SEVEN_DAYS, CLICK),
        count("query_category_purchases_30d", THIRTY_DAYS, BUY),
        feature("query_category_dwell_30d", "mean", "dwell_seconds", THIRTY_DAYS),
        ratio("query_category_ctr_30d", THIRTY_DAYS, CLICK, IMPRESSION, prior=0.05, weight=20),
    ],
)
