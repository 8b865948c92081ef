"""What models read: `ranking` (numbers and history) and `retrieval` (history only).

The order of the views, and the names of the features within each, give the order of the model's inputs; views of
user, session and query go into `user`, the others into `item`.
"""

from cross import cross
from feast import FeatureService
from views import (
    item_stats,
    query_category_stats,
    query_item_stats,
    query_stats,
    session_stats,
    user_category_stats,
    user_stats,
)

HISTORY = {
    "history_items": "user_stats:recent_items",
    "history_kinds": "user_stats:recent_kinds",
    "history_times": "user_stats:recent_times",
}

ranking = FeatureService(
    name="ranking",
    features=[
        user_stats[
            [
                "views_5m", "clicks_5m", "clicks_1h", "searches_1h", "impressions_1h", "carts_1d", "purchases_30d",
                "ctr_1d", "spend_30d", "mean_price_7d", "std_price_30d", "max_price_1d", "mean_rating_30d",
                "played_seconds_1d", "distinct_items_1d", "distinct_categories_7d", "decayed_clicks",
            ]
        ],
        session_stats[
            ["session_views", "session_clicks", "session_impressions", "session_items_seen", "session_mean_price"]
        ],
        query_stats,
        item_stats,
        user_category_stats,
        query_item_stats,
        query_category_stats,
        cross,
    ],
    tags=HISTORY,
)  # fmt: skip

retrieval = FeatureService(
    name="retrieval",
    features=[user_stats[["recent_items", "recent_kinds", "recent_times"]]],
    tags=HISTORY,
)
