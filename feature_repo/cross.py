"""Features of candidate and shopper together: computed in the gateway by a named built-in, never stored.

`list` names three parallel lists of views.py by their prefix; README.md says what each built-in answers.
"""

from datetime import timedelta

from entities import item
from feast import FeatureView, Field
from feast.types import Float32
from sources import archive


def crossed(name: str, builtin: str, **args: str) -> Field:
    """One cross feature and its typed arguments."""
    return Field(name=name, dtype=Float32, tags={"builtin": builtin, **args})


RECENT, SESSION = "user_stats:recent", "session_stats:session"

cross = FeatureView(
    name="cross",
    entities=[item],
    ttl=timedelta(0),
    online=False,
    source=archive("cross"),
    tags={"file": "cross.py"},
    schema=[
        crossed("recent_rank", "recency_rank", list=RECENT),
        crossed("recent_count", "list_count", list=RECENT),
        crossed("recent_since", "seconds_since", list=RECENT),
        crossed("recent_clicks", "kind_count", list=RECENT, kind="click"),
        crossed("session_rank", "recency_rank", list=SESSION),
        crossed("session_count", "list_count", list=SESSION),
        crossed("session_since", "seconds_since", list=SESSION),
        crossed("session_clicked", "kind_count", list=SESSION, kind="click"),
        crossed("session_viewed", "kind_count", list=SESSION, kind="view"),
        crossed("session_clicked_rank", "recency_rank", list=SESSION, kind="click"),
        crossed("session_category_share", "same_category_share", list=SESSION),
        crossed("session_price_ratio", "price_ratio", list=SESSION),
        crossed("rank_after_last", "rank_delta", list=SESSION),
        crossed("session_last_place", "last_place", list=SESSION),
        crossed("session_last_step", "last_step", list=SESSION),
        crossed("session_idle", "seconds_idle", list=SESSION),
        crossed("price_level", "price_level"),
        crossed("prior_rank", "prior_rank"),
        crossed("prior_reciprocal", "prior_reciprocal"),
        crossed("position_share", "position_share"),
        crossed("price", "price"),
        crossed("price_rank", "price_rank"),
        crossed("age_days", "age_days"),
        crossed("lexical_score", "lexical_score"),
        crossed("lexical_share", "lexical_share"),
        crossed("text_similarity", "text_similarity"),
        crossed("category_probability", "category_probability"),
        crossed("query_words", "query_words"),
    ],
)
